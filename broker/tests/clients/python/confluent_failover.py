"""Consumers of librdkafka while a broker that they do not read from dies: confluent_failover.py BOOTSTRAP TOPIC BROKER.

Two groups read a topic that BROKER leads nothing of: BROKER is the coordinator of one and nothing to the other. "ready" is
said once both have read and committed; a line on standard input says that BROKER is dead and replaced. Nobody of either
group may be rebalanced, and both go on where they were.
"""

import sys
import time

from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from polling import DEADLINE, poll_until

PARTITIONS = 4
RECORDS = 200
NAMES_MAX = 500


class Member:
    """A consumer, how often it was given partitions and lost them, and the values that it read."""

    def __init__(self, bootstrap, topic, group):
        self.rebalances, self.values = 0, []
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                # Nobody is missed before the group has another coordinator, on the slowest machine.
                "session.timeout.ms": 120_000,
                "heartbeat.interval.ms": 500,
                "enable.auto.commit": False,
            }
        )
        self.consumer.subscribe([topic], on_assign=self.on_change, on_revoke=self.on_change, on_lost=self.on_change)

    def on_change(self, consumer, partitions):
        self.rebalances += 1

    def poll(self):
        message = self.consumer.poll(0.05)
        if message is None:
            return
        if message.error():
            assert message.error().code() != KafkaError._MAX_POLL_EXCEEDED, message.error()
            return
        self.values.append(message.value())

    def partitions(self):
        return sorted(partition.partition for partition in self.consumer.assignment())


class Group:
    def __init__(self, bootstrap, topic, name):
        self.name = name
        self.members = [Member(bootstrap, topic, name) for _ in range(2)]

    def shares(self):
        return [member.partitions() for member in self.members]

    def is_balanced(self):
        return sorted(sum(self.shares(), [])) == list(range(PARTITIONS)) and all(self.shares())

    def values(self):
        return sorted(value for member in self.members for value in member.values)

    def commit(self):
        for member in self.members:
            member.consumer.commit(asynchronous=False)

    def state(self):
        return [(member.rebalances, member.partitions()) for member in self.members]

    def committed(self):
        return sum(
            partition.offset
            for member in self.members
            for partition in member.consumer.committed(member.consumer.assignment(), timeout=DEADLINE)
        )


def groups_until(what, groups, condition):
    members = [member for group in groups for member in group.members]
    poll_until(what, members, condition, lambda: [(group.name, group.state()) for group in groups])


def coordinator(admin, group):
    return admin.describe_consumer_groups([group])[group].result(DEADLINE).coordinator.id


def named(admin, topic, wanted):
    """The first name of a group whose coordinator is wanted."""
    names = (f"{topic}-{number}" for number in range(NAMES_MAX))
    return next(name for name in names if wanted(coordinator(admin, name)))


def write(bootstrap, topic, first):
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for number in range(first, first + RECORDS):
        producer.produce(topic, f"{number:06}", partition=number % PARTITIONS)
    assert producer.flush(DEADLINE) == 0


def main(bootstrap, topic, broker):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    others = [node for node in admin.list_topics(timeout=DEADLINE).brokers if node != broker]
    assignment = [[others[at % len(others)]] for at in range(PARTITIONS)]
    admin.create_topics([NewTopic(topic, PARTITIONS, replica_assignment=assignment)])[topic].result(DEADLINE)
    orphaned = Group(bootstrap, topic, named(admin, topic, lambda node: node == broker))
    untouched = Group(bootstrap, topic, named(admin, topic, lambda node: node != broker))
    groups = [orphaned, untouched]
    # Whoever comes later reads again what was read and not committed.
    groups_until("their shares", groups, lambda: all(group.is_balanced() for group in groups))
    write(bootstrap, topic, 0)
    wanted = [f"{number:06}".encode() for number in range(RECORDS)]
    groups_until("the first records", groups, lambda: all(group.values() == wanted for group in groups))
    for group in groups:
        group.commit()
    before = [group.state() for group in groups]
    print("ready", flush=True)
    sys.stdin.readline()

    write(bootstrap, topic, RECORDS)
    wanted += [f"{number:06}".encode() for number in range(RECORDS, 2 * RECORDS)]
    groups_until("the records after it", groups, lambda: all(len(group.values()) >= len(wanted) for group in groups))
    for group in groups:
        assert group.values() == wanted, "each record once"
        assert group.committed() == RECORDS, f"what {group.name} had committed"
        group.commit()
        assert group.committed() == 2 * RECORDS, f"what {group.name} commits"
    assert coordinator(admin, orphaned.name) != broker
    assert [group.state() for group in groups] == before, f"{before}, then {[group.state() for group in groups]}"
    print(f"two groups of two went on without a rebalance: {before}")
    for group in groups:
        for member in group.members:
            member.consumer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
