"""What an aiokafka user does to a broker: aiokafka_scenario.py first|second BOOTSTRAP TOPIC."""

import asyncio
import sys
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

PARTITIONS = 3
PER_CODEC = 200
CODECS = [None, "gzip", "snappy", "lz4", "zstd"]
TOTAL = len(CODECS) * PER_CODEC
FIRST_TIMESTAMP = 1_700_000_000_000
DEADLINE = 120
REQUEST_TIMEOUT_MS = 60_000


def value(i):
    return None if i % 7 == 0 else f"value {i} ".encode() + b"x" * (i % 300)


def headers(i):
    return [("number", str(i).encode()), ("twice", b"a"), ("twice", b"b")]


def number(message):
    return int(message.key.decode().removeprefix("key-"))


class Scenario:
    def __init__(self, bootstrap, topic):
        self.bootstrap, self.topic, self.group = bootstrap, topic, topic + "-group"
        self.partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]

    async def produce(self, codec, start, count):
        # Idempotent with every other codec.
        idempotent = start // PER_CODEC % 2 == 1
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            compression_type=codec,
            acks="all",
            linger_ms=5,
            enable_idempotence=idempotent,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        await producer.start()
        sends = [
            await producer.send(
                self.topic,
                key=f"key-{i}".encode(),
                value=value(i),
                partition=i % PARTITIONS,
                timestamp_ms=FIRST_TIMESTAMP + i,
                headers=headers(i),
            )
            for i in range(start, start + count)
        ]
        for i, send in enumerate(sends, start):
            metadata = await send
            assert (metadata.partition, metadata.offset) == (i % PARTITIONS, i // PARTITIONS), metadata
        await producer.stop()

    def consumer(self, group=None):
        return AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            session_timeout_ms=60_000,
            heartbeat_interval_ms=200,
        )

    async def poll(self, consumer, count):
        messages = []
        deadline = time.monotonic() + DEADLINE
        while len(messages) < count:
            assert time.monotonic() < deadline, f"got {len(messages)} of {count}"
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                messages.extend(batch)
        return messages

    def verify(self, messages, count):
        assert len(messages) == count, len(messages)
        following = [0] * PARTITIONS
        for message in messages:
            i = number(message)
            assert message.offset == following[message.partition], (message.offset, following)
            following[message.partition] += 1
            assert i == message.offset * PARTITIONS + message.partition, i
            assert message.value == value(i), i
            assert message.timestamp == FIRST_TIMESTAMP + i, i
            assert list(message.headers) == headers(i), message.headers

    async def read(self, count):
        consumer = self.consumer()
        await consumer.start()
        consumer.assign(self.partitions)
        await consumer.seek_to_beginning()
        self.verify(await self.poll(consumer, count), count)
        assert sum((await consumer.end_offsets(self.partitions)).values()) == count
        # Partition 1 holds 1, 4, 7, ...: the first at or after number 500 is 502, at offset 167.
        found = (await consumer.offsets_for_times({self.partitions[1]: FIRST_TIMESTAMP + 500}))[self.partitions[1]]
        assert (found.offset, found.timestamp) == (167, FIRST_TIMESTAMP + 502), found
        await consumer.stop()

    async def create(self):
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS)
        await admin.start()
        fresh = NewTopic(self.topic, PARTITIONS, 1, topic_configs={"retention.ms": "86400000"})
        assert code(await admin.create_topics([fresh])) == 0
        assert for_code(code(await admin.create_topics([fresh]))) is TopicAlreadyExistsError
        described = await admin.describe_topics([self.topic])
        assert len(described[0]["partitions"]) == PARTITIONS, described
        resource = ConfigResource(ConfigResourceType.TOPIC, self.topic)
        (answer,) = await admin.describe_configs([resource])
        configs = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        assert configs["retention.ms"] == "86400000", configs
        await admin.close()

    async def rebalance(self):
        one, two = await self.member(), await self.member()
        await wait([one, two], lambda: one.holds() and two.holds() and one.holds() | two.holds() == set(self.partitions))
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS)
        await admin.start()
        assert (self.group, "consumer") in [tuple(listed) for listed in await admin.list_consumer_groups()]
        (answer,) = await admin.describe_consumer_groups([self.group])
        (described,) = answer.groups
        assert described[2] == "Stable" and len(described[5]) == 2, described
        await admin.close()
        await two.stop()
        await wait([one], lambda: one.holds() == set(self.partitions))
        await one.stop()

    async def member(self):
        consumer = self.consumer(self.group)
        consumer.subscribe([self.topic])
        await consumer.start()
        consumer.holds = lambda: set(consumer.assignment())
        return consumer

    async def first(self):
        await self.create()
        for i, codec in enumerate(CODECS):
            await self.produce(codec, i * PER_CODEC, PER_CODEC)
        await self.read(TOTAL)
        await self.rebalance()
        member = await self.member()
        messages = await self.poll(member, TOTAL)
        self.verify(messages, TOTAL)
        ends = {TopicPartition(self.topic, m.partition): (m.offset + 1, "up to here") for m in messages}
        await member.commit(ends)
        await member.stop()

    async def second(self):
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS)
        await admin.start()
        committed = await admin.list_consumer_group_offsets(self.group)
        assert sum(partition.offset for partition in committed.values()) == TOTAL, committed
        assert all(partition.metadata == "up to here" for partition in committed.values()), committed
        await self.produce("gzip", TOTAL, PER_CODEC)
        member = await self.member()
        fresh = await self.poll(member, PER_CODEC)
        assert all(number(message) >= TOTAL for message in fresh), "the group resumes where it committed"
        await member.stop()
        await self.read(TOTAL + PER_CODEC)
        assert code(await admin.delete_topics([self.topic])) == 0
        assert self.topic not in await admin.list_topics()
        assert for_code(code(await admin.delete_topics([self.topic]))) is UnknownTopicOrPartitionError
        await admin.close()


def code(answer):
    """The error code of the one topic that an answer is about."""
    topics = getattr(answer, "topic_errors", None) or answer.topic_error_codes
    return topics[0][1]


async def wait(members, condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, [member.holds() for member in members]
        for member in members:
            await member.getmany(timeout_ms=20)


if __name__ == "__main__":
    phase, bootstrap, topic = sys.argv[1:4]
    scenario = Scenario(bootstrap, topic)
    asyncio.run({"first": scenario.first, "second": scenario.second}[phase]())
    print(f"aiokafka {phase}: ok")
