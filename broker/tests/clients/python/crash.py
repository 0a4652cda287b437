"""A writer that keeps going while its broker is killed again and again, and the judge of what is left.

crash.py write BOOTSTRAP TOPIC ACKS   writes until standard input ends; each acknowledged record is a line in ACKS
                                      (partition, offset, number) and each hundredth is reported on standard output
crash.py verify BOOTSTRAP TOPIC ACKS  every acknowledged record is there once, in order, at its offset
"""

import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 4
DEADLINE = 120


def write(bootstrap, topic, path):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(DEADLINE)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 1,
            "message.timeout.ms": 300_000,
            "reconnect.backoff.max.ms": 200,
            "retry.backoff.ms": 50,
            # Lost connections are the point of the exercise.
            "log.connection.close": False,
            "log_level": 0,
        }
    )
    stopping = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopping.set()), daemon=True).start()
    failures = []
    acknowledged = 0
    with open(path, "w") as acks:

        def report(error, message):
            nonlocal acknowledged
            if error is not None:
                failures.append(error)
                return
            acks.write(f"{message.partition()} {message.offset()} {message.value().split()[0].decode()}\n")
            acknowledged += 1
            if acknowledged % 100 == 0:
                print(acknowledged, flush=True)

        number = 0
        while not stopping.is_set() and not failures:
            if number - acknowledged > 2000:
                producer.poll(0.01)
                continue
            value = f"{number} ".encode() + b"x" * (number % 500)
            producer.produce(topic, value=value, partition=number % PARTITIONS, on_delivery=report)
            number += 1
            producer.poll(0)
        assert producer.flush(DEADLINE) == 0, "what was begun is finished"
    assert not failures, failures[:3]
    print(f"done {acknowledged}", flush=True)


def verify(bootstrap, topic, path):
    acked = {}
    for line in open(path):
        partition, offset, number = map(int, line.split())
        assert acked.setdefault((partition, offset), number) == number, f"two records acknowledged at {line}"
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "judge", "auto.offset.reset": "error"})
    ends = [reader.get_watermark_offsets(TopicPartition(topic, p), timeout=DEADLINE)[1] for p in range(PARTITIONS)]
    reader.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    following = [0] * PARTITIONS
    last = [-1] * PARTITIONS
    deadline = time.monotonic() + DEADLINE
    while following != ends:
        assert time.monotonic() < deadline, f"read up to {following} of {ends}"
        for message in reader.consume(1000, timeout=0.5):
            assert message.error() is None, message.error()
            partition, offset = message.partition(), message.offset()
            assert offset == following[partition], f"gap at {partition}:{offset}, expected {following[partition]}"
            following[partition] += 1
            number = int(message.value().split()[0])
            assert len(message.value()) == len(str(number)) + 1 + number % 500, f"the bytes of {number}"
            assert number > last[partition], f"{number} after {last[partition]}: doubled or out of order"
            last[partition] = number
            expected = acked.pop((partition, offset), number)
            assert expected == number, f"{partition}:{offset} was acknowledged for {expected} and holds {number}"
    assert not acked, f"{len(acked)} acknowledged records are lost, such as {list(acked.items())[:5]}"
    print(f"verified {sum(ends)}")


if __name__ == "__main__":
    command, bootstrap, topic, path = sys.argv[1:5]
    {"write": write, "verify": verify}[command](bootstrap, topic, path)
