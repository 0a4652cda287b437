"""What a kafka-python user does to a broker: kafka_python.py first|second BOOTSTRAP TOPIC."""

import sys
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.structs import OffsetAndMetadata

PARTITIONS = 3
PER_CODEC = 200
CODECS = [None, "gzip", "snappy", "lz4", "zstd"]
FIRST_TIMESTAMP = 1_700_000_000_000
DEADLINE = 120
REQUEST_TIMEOUT_MS = 60_000


def value(i):
    return None if i % 7 == 0 else f"value {i} ".encode() + b"x" * (i % 300)


def produce(bootstrap, topic, codec, start, count):
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        compression_type=codec,
        acks="all",
        linger_ms=5,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    sends = [
        producer.send(
            topic,
            key=f"key-{i}".encode(),
            value=value(i),
            partition=i % PARTITIONS,
            timestamp_ms=FIRST_TIMESTAMP + i,
            headers=[("number", str(i).encode())],
        )
        for i in range(start, start + count)
    ]
    for send in sends:
        send.get(timeout=DEADLINE)
    producer.close()


def consumer(bootstrap, group=None):
    return KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        session_timeout_ms=60_000,
        heartbeat_interval_ms=500,
    )


def poll(member, count):
    messages = []
    deadline = time.monotonic() + DEADLINE
    while len(messages) < count:
        assert time.monotonic() < deadline, f"got {len(messages)} of {count}"
        for batch in member.poll(timeout_ms=5000).values():
            messages.extend(batch)
    return messages


def verify(bootstrap, topic, count):
    reader = consumer(bootstrap)
    partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    reader.assign(partitions)
    reader.seek_to_beginning(*partitions)
    following = [0] * PARTITIONS
    for message in poll(reader, count):
        assert message.offset == following[message.partition], (message.offset, following)
        following[message.partition] += 1
        i = int(message.key.decode().removeprefix("key-"))
        assert i == message.offset * PARTITIONS + message.partition, i
        assert message.value == value(i), i
        assert message.timestamp == FIRST_TIMESTAMP + i, i
    assert sum(reader.end_offsets(partitions).values()) == count
    reader.close()


def first(bootstrap, topic):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS)
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    for number, codec in enumerate(CODECS):
        produce(bootstrap, topic, codec, number * PER_CODEC, PER_CODEC)
    total = len(CODECS) * PER_CODEC
    verify(bootstrap, topic, total)
    reader = consumer(bootstrap)
    partition = TopicPartition(topic, 1)
    # Partition 1 holds 1, 4, 7, ...: the first at or after number 500 is 502, at offset 167.
    found = reader.offsets_for_times({partition: FIRST_TIMESTAMP + 500})[partition]
    assert (found.offset, found.timestamp) == (167, FIRST_TIMESTAMP + 502), found
    reader.close()

    one, two = Member(bootstrap, topic), None
    wait([one], lambda: one.holds() == PARTITIONS, "the first gets everything")
    two = Member(bootstrap, topic)
    both = [one, two]
    wait(both, lambda: min(m.holds() for m in both) > 0 and sum(m.holds() for m in both) == PARTITIONS, "both get a share")
    two.consumer.close()
    wait([one], lambda: one.holds() == PARTITIONS, "the rest gets everything")
    one = one.consumer
    one.seek_to_beginning()
    messages = poll(one, total)
    ends = {}
    for message in messages:
        ends[TopicPartition(topic, message.partition)] = OffsetAndMetadata(message.offset + 1, "up to here", -1)
    one.commit(ends)
    one.close()
    admin.close()


class Member:
    """A consumer in the group, started anew when the client has lost track of itself.

    Where a poll() times out between the answers to JoinGroup and SyncGroup, kafka-python 3.0.12 never takes up the
    assignment that the second one brought, and spins. Long polls make that rare.
    """

    def __init__(self, bootstrap, topic):
        self.bootstrap, self.topic, self.consumer = bootstrap, topic, None
        self.start()

    def start(self):
        if self.consumer is not None:
            self.consumer.close()
        self.consumer = consumer(self.bootstrap, self.topic + "-group")
        self.consumer.subscribe([self.topic])

    def holds(self):
        return len(self.consumer.assignment())


def wait(members, condition, what, restarts=2):
    deadline = time.monotonic() + DEADLINE / 3
    while not condition():
        if time.monotonic() > deadline:
            assert restarts > 0, what
            print(f"kafka-python: a member starts anew, waiting until {what}", file=sys.stderr)
            for member in members:
                member.start()
            return wait(members, condition, what, restarts - 1)
        for member in members:
            member.consumer.poll(timeout_ms=1000)


def second(bootstrap, topic):
    total = len(CODECS) * PER_CODEC
    member = consumer(bootstrap, topic + "-group")
    committed = [member.committed(TopicPartition(topic, p), metadata=True) for p in range(PARTITIONS)]
    assert sum(partition.offset for partition in committed) == total, committed
    assert all(partition.metadata == "up to here" for partition in committed), committed
    produce(bootstrap, topic, "gzip", total, PER_CODEC)
    member.subscribe([topic])
    fresh = poll(member, PER_CODEC)
    assert all(int(message.key.decode().removeprefix("key-")) >= total for message in fresh)
    member.close()
    verify(bootstrap, topic, total + PER_CODEC)
    admin = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS)
    admin.delete_topics([topic])
    assert topic not in admin.list_topics()
    admin.close()


if __name__ == "__main__":
    phase, bootstrap, topic = sys.argv[1:4]
    {"first": first, "second": second}[phase](bootstrap, topic)
    print(f"kafka-python {phase}: ok")
