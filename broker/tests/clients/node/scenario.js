// What a Node user does to a broker, in two parts with a restart of the broker in between: with kafkajs, and with
// Confluent's client, which is librdkafka behind the same interface.
//
// scenario.js kafkajs|confluent first|second BOOTSTRAP TOPIC. Exits with 0 only if everything held.
'use strict';

const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');

const [name, part, bootstrap, topic] = process.argv.slice(2);
const group = `${topic}-group`;
const client = { kafkajs, confluent }[name]();

const PARTITIONS = 3;
const PER_CODEC = 200;
const TOTAL = client.codecs.length * PER_CODEC;
const FIRST_TIMESTAMP = 1_700_000_000_000;
const DEADLINE = 120_000;

/** kafkajs: a client of its own, with rigid versions of every request. */
function kafkajs() {
  const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs');
  CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy');
  const kafka = new Kafka({ brokers: [bootstrap], requestTimeout: 60_000, logLevel: logLevel.NOTHING });
  const codecs = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy };
  return {
    codecs: Object.keys(codecs),
    admin: () => kafka.admin(),
    producer: (codec) => {
      // Idempotent with one of the codecs.
      const idempotent = codec === 'gzip';
      const producer = kafka.producer({ idempotent, maxInFlightRequests: idempotent ? 1 : 5 });
      const send = (messages) => producer.send({ topic, messages, acks: -1, compression: codecs[codec] });
      return { connect: () => producer.connect(), disconnect: () => producer.disconnect(), send };
    },
    consumer: (groupId) => {
      const consumer = kafka.consumer({ groupId, sessionTimeout: 60_000, heartbeatInterval: 300, maxWaitTimeInMs: 100 });
      let held = [];
      consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => (held = payload.memberAssignment[topic] ?? []));
      return {
        holds: () => held,
        consumer,
        subscribe: () => consumer.subscribe({ topics: [topic], fromBeginning: true }),
        run: (eachMessage) => consumer.run({ autoCommit: false, eachMessage }),
      };
    },
    config: async (admin, key) => {
      const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: 2, name: topic }] });
      return resources[0].configEntries.find((entry) => entry.configName === key).configValue;
    },
  };
}

/** @confluentinc/kafka-javascript. */
function confluent() {
  const { Kafka, logLevel } = require('@confluentinc/kafka-javascript').KafkaJS;
  const kafka = new Kafka({ kafkaJS: { brokers: [bootstrap], logLevel: logLevel.NOTHING } });
  return {
    codecs: ['none', 'gzip', 'snappy', 'lz4'],
    admin: () => kafka.admin(),
    producer: (compression) => {
      const producer = kafka.producer({ kafkaJS: { acks: -1, compression, idempotent: compression !== 'none' }, 'linger.ms': 5 });
      const send = (messages) => producer.send({ topic, messages });
      return { connect: () => producer.connect(), disconnect: () => producer.disconnect(), send };
    },
    consumer: (groupId) => {
      const kafkaJS = { groupId, fromBeginning: true, autoCommit: false, sessionTimeout: 60_000, heartbeatInterval: 300 };
      const consumer = kafka.consumer({ kafkaJS });
      return {
        holds: () => consumer.assignment().map(({ partition }) => partition),
        consumer,
        subscribe: () => consumer.subscribe({ topics: [topic] }),
        run: (eachMessage) => consumer.run({ eachMessage }),
      };
    },
  };
}

/** Record i: every seventh has a null value, and a header key occurs twice. */
function sent(i) {
  return {
    partition: i % PARTITIONS,
    timestamp: String(FIRST_TIMESTAMP + i),
    key: `key-${i}`,
    value: i % 7 === 0 ? null : `value ${i} ${'x'.repeat(i % 300)}`,
    headers: { number: String(i), twice: ['a', 'b'] },
  };
}

const number = (message) => Number(message.key.toString().slice('key-'.length));

async function withAdmin(work) {
  const admin = client.admin();
  await admin.connect();
  const result = await work(admin);
  await admin.disconnect();
  return result;
}

async function until(what, condition) {
  for (const began = Date.now(); !(await condition()); await sleep(50)) {
    assert(Date.now() < began + DEADLINE, what);
  }
}

async function create() {
  await withAdmin(async (admin) => {
    const configEntries = [{ name: 'retention.ms', value: '86400000' }];
    const topics = [{ topic, numPartitions: PARTITIONS, replicationFactor: 1, configEntries }];
    assert.equal(await admin.createTopics({ topics }), true);
    assert.equal(await admin.createTopics({ topics }), false, 'a second topic of the name');
    const metadata = await admin.fetchTopicMetadata({ topics: [topic] });
    assert.equal((metadata.topics ?? metadata)[0].partitions.length, PARTITIONS);
    if (client.config) {
      assert.equal(await client.config(admin, 'retention.ms'), '86400000');
    }
  });
}

async function produce(codec, from, count) {
  const producer = client.producer(codec);
  await producer.connect();
  await producer.send(Array.from({ length: count }, (_, i) => sent(from + i)));
  await producer.disconnect();
}

/** A member of the group reads count messages, commits behind them if it is told to, and leaves. */
async function consume(groupId, count, commit) {
  const member = client.consumer(groupId);
  await member.consumer.connect();
  await member.subscribe();
  const messages = [];
  await member.run(async ({ partition, message }) => {
    messages.push({ partition, ...message });
  });
  await until(`${messages.length} of ${count} messages`, () => messages.length >= count);
  if (commit) {
    const ends = new Map();
    messages.forEach(({ partition, offset }) => ends.set(partition, String(Number(offset) + 1)));
    await member.consumer.commitOffsets(
      [...ends].map(([partition, offset]) => ({ topic, partition, offset, metadata: 'up to here' })),
    );
  }
  await member.consumer.disconnect();
  return messages;
}

/** Each of the first count records once, in its place, unchanged. */
function verify(messages, count) {
  assert.equal(messages.length, count);
  const next = Array(PARTITIONS).fill(0);
  for (const message of messages) {
    const i = number(message);
    const want = sent(i);
    assert.equal(Number(message.offset), next[message.partition]++, `offset of ${i}`);
    assert.equal(message.partition, want.partition, `partition of ${i}`);
    assert.equal(Number(message.offset), Math.floor(i / PARTITIONS), `${i} out of place`);
    assert.equal(String(message.timestamp), want.timestamp, `timestamp of ${i}`);
    assert.equal(message.value === null ? null : message.value.toString(), want.value, `value of ${i}`);
    const text = (value) => (Array.isArray(value) ? value.map(String) : String(value));
    const headers = Object.fromEntries(Object.entries(message.headers).map(([key, value]) => [key, text(value)]));
    assert.deepEqual(headers, want.headers, `headers of ${i}`);
  }
}

async function rebalance() {
  const one = client.consumer(group);
  const two = client.consumer(group);
  for (const member of [one, two]) {
    await member.consumer.connect();
    await member.subscribe();
    await member.run(async () => {});
  }
  await until('both members share the topic', () => {
    const both = [...one.holds(), ...two.holds()];
    return one.holds().length > 0 && two.holds().length > 0 && both.length === PARTITIONS && new Set(both).size === PARTITIONS;
  });
  await withAdmin(async (admin) => {
    const { groups } = await admin.describeGroups([group]);
    assert.equal(groups[0].members.length, 2);
    assert.equal((await admin.listGroups()).groups.filter(({ groupId }) => groupId === group).length, 1);
  });
  await two.consumer.disconnect();
  await until('the other takes over', () => one.holds().length === PARTITIONS);
  await one.consumer.disconnect();
}

async function first() {
  await create();
  for (const [i, codec] of client.codecs.entries()) {
    await produce(codec, i * PER_CODEC, PER_CODEC);
  }
  await withAdmin(async (admin) => {
    const ends = await admin.fetchTopicOffsets(topic);
    assert.equal(ends.reduce((sum, { offset }) => sum + Number(offset), 0), TOTAL);
    // Partition 1 holds records 1, 4, 7, …: the first at or after number 500 is 502, at offset 167.
    const found = await admin.fetchTopicOffsetsByTimestamp(topic, FIRST_TIMESTAMP + 500);
    assert.equal(found.find(({ partition }) => partition === 1).offset, '167');
  });
  await rebalance();
  verify(await consume(group, TOTAL, true), TOTAL);
}

async function second() {
  await withAdmin(async (admin) => {
    const [{ partitions }] = await admin.fetchOffsets({ groupId: group, topics: [topic] });
    assert.equal(partitions.reduce((sum, { offset }) => sum + Number(offset), 0), TOTAL);
    assert(partitions.every(({ metadata }) => metadata === 'up to here'), JSON.stringify(partitions));
  });
  await produce('gzip', TOTAL, PER_CODEC);
  const fresh = await consume(group, PER_CODEC, true);
  assert(fresh.every((message) => number(message) >= TOTAL), 'the group resumes where it committed');
  verify(await consume(`${group}-reader`, TOTAL + PER_CODEC, false), TOTAL + PER_CODEC);
  await withAdmin(async (admin) => {
    await admin.deleteTopics({ topics: [topic] });
    assert(!(await admin.listTopics()).includes(topic), 'a deleted topic is gone');
  });
}

({ first, second })[part]().then(
  () => {
    console.log(`${name} ${part}: ok`);
    process.exit(0);
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
