"""What a librdkafka user does to a broker: confluent.py first|second BOOTSTRAP TOPIC."""

import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

PARTITIONS = 3
PER_CODEC = 200
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
FIRST_TIMESTAMP = 1_700_000_000_000
DEADLINE = 120


def value(i):
    return None if i % 7 == 0 else f"value {i} " + "x" * (i % 300)


def headers(i):
    return [("twice", b"a"), ("number", str(i).encode()), ("twice", None)]


def produce(bootstrap, topic, codec, start, count):
    producer = Producer(
        {"bootstrap.servers": bootstrap, "compression.type": codec, "enable.idempotence": True, "linger.ms": 5}
    )
    reports = []
    for i in range(start, start + count):
        producer.produce(
            topic,
            key=f"key-{i}",
            value=value(i),
            partition=i % PARTITIONS,
            timestamp=FIRST_TIMESTAMP + i,
            headers=headers(i),
            on_delivery=lambda error, message: reports.append((error, message)),
        )
    assert producer.flush(DEADLINE) == 0, "everything is delivered"
    assert len(reports) == count and all(error is None for error, _ in reports), reports[:3]


def consumer(bootstrap, group):
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 60_000,
            "heartbeat.interval.ms": 500,
        }
    )


def poll(member, count):
    messages = []
    deadline = time.monotonic() + DEADLINE
    while len(messages) < count:
        assert time.monotonic() < deadline, f"got {len(messages)} of {count}"
        message = member.poll(0.5)
        if message is not None:
            if message.error():
                raise KafkaException(message.error())
            messages.append(message)
    return messages


def verify(bootstrap, topic, count):
    reader = consumer(bootstrap, topic + "-reader")
    reader.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    following = [0] * PARTITIONS
    for message in poll(reader, count):
        partition = message.partition()
        assert message.offset() == following[partition], (message.offset(), following)
        following[partition] += 1
        i = int(message.key().decode().removeprefix("key-"))
        assert i == message.offset() * PARTITIONS + partition, i
        expected = value(i)
        assert message.value() == (expected.encode() if expected is not None else None), i
        assert message.timestamp()[1] == FIRST_TIMESTAMP + i, i
        assert message.headers() == headers(i), (i, message.headers())
    low, high = zip(*(reader.get_watermark_offsets(TopicPartition(topic, p), timeout=DEADLINE) for p in range(PARTITIONS)))
    assert sum(low) == 0 and sum(high) == count, (low, high)
    reader.close()


def rebalance(bootstrap, topic, total):
    one, two = consumer(bootstrap, topic + "-group"), consumer(bootstrap, topic + "-group")
    one.subscribe([topic])
    wait(lambda: one.poll(0.1) and False or len(one.assignment()) == PARTITIONS, "the first member gets everything")
    two.subscribe([topic])

    def shared():
        one.poll(0.1), two.poll(0.1)
        held = [len(one.assignment()), len(two.assignment())]
        return min(held) > 0 and sum(held) == PARTITIONS

    wait(shared, "both members get a share")
    two.close()

    def alone():
        one.poll(0.1)
        return len(one.assignment()) == PARTITIONS

    wait(alone, "the rest gets everything when one leaves")
    one.unsubscribe()
    one.close()
    # A fresh member reads from the beginning, as nothing was committed, and commits.
    three = consumer(bootstrap, topic + "-group")
    three.subscribe([topic])
    messages = poll(three, total)
    ends = {}
    for message in messages:
        ends[message.partition()] = message.offset() + 1
    three.commit(
        offsets=[TopicPartition(topic, p, o, metadata="up to here") for p, o in ends.items()], asynchronous=False
    )
    three.close()


def wait(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what


def first(bootstrap, topic):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(DEADLINE)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    config = admin.describe_configs([resource])[resource].result(DEADLINE)
    assert config["cleanup.policy"].value == "delete", config["cleanup.policy"]
    assert len(admin.list_topics(topic, timeout=DEADLINE).topics[topic].partitions) == PARTITIONS
    for number, codec in enumerate(CODECS):
        produce(bootstrap, topic, codec, number * PER_CODEC, PER_CODEC)
    total = len(CODECS) * PER_CODEC
    verify(bootstrap, topic, total)
    reader = consumer(bootstrap, topic + "-reader")
    # Partition 1 holds 1, 4, 7, ...: the first at or after number 500 is 502, at offset 167.
    found = reader.offsets_for_times([TopicPartition(topic, 1, FIRST_TIMESTAMP + 500)], timeout=DEADLINE)
    assert found[0].offset == 167, found
    reader.close()
    rebalance(bootstrap, topic, total)
    groups = admin.list_consumer_groups().result(DEADLINE).valid
    assert topic + "-group" in [group.group_id for group in groups], groups


def second(bootstrap, topic):
    total = len(CODECS) * PER_CODEC
    member = consumer(bootstrap, topic + "-group")
    committed = member.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=DEADLINE)
    assert sum(partition.offset for partition in committed) == total, committed
    assert all(partition.metadata == "up to here" for partition in committed), committed
    produce(bootstrap, topic, "zstd", total, PER_CODEC)
    member.subscribe([topic])
    fresh = poll(member, PER_CODEC)
    assert all(int(message.key().decode().removeprefix("key-")) >= total for message in fresh)
    member.close()
    verify(bootstrap, topic, total + PER_CODEC)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.delete_topics([topic])[topic].result(DEADLINE)
    assert topic not in admin.list_topics(timeout=DEADLINE).topics


if __name__ == "__main__":
    phase, bootstrap, topic = sys.argv[1:4]
    {"first": first, "second": second}[phase](bootstrap, topic)
    print(f"confluent {phase}: ok")
