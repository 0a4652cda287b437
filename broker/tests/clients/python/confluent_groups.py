"""Static members with librdkafka, and the deletion of a group: confluent_groups.py first|second BOOTSTRAP TOPIC."""

import sys

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from polling import DEADLINE, poll_until

PARTITIONS = 4


class Member:
    """A consumer under a name, and how often partitions were taken from it."""

    def __init__(self, bootstrap, topic, instance):
        self.revocations = 0
        self.fatal = None
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": topic + "-group",
                "group.instance.id": instance,
                "session.timeout.ms": 60_000,
                "heartbeat.interval.ms": 500,
                "enable.auto.commit": False,
                "error_cb": self.on_error,
            }
        )
        self.consumer.subscribe([topic], on_revoke=self.on_revoke)

    def on_revoke(self, consumer, partitions):
        self.revocations += 1

    def on_error(self, error):
        if error.fatal() or error.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID):
            self.fatal = error

    def poll(self):
        message = self.consumer.poll(0.1)
        if message is not None and message.error():
            self.on_error(message.error())

    def partitions(self):
        return {partition.partition for partition in self.consumer.assignment()}


def describe(bootstrap, group):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    return admin.describe_consumer_groups([group])[group].result(DEADLINE)


def first(bootstrap, topic):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, PARTITIONS, -1)])[topic].result(DEADLINE)
    a, b = Member(bootstrap, topic, "a"), Member(bootstrap, topic, "b")
    share = PARTITIONS // 2
    poll_until("shares", [a, b], lambda: len(a.partitions()) == share and len(b.partitions()) == share)
    of_b, revocations = b.partitions(), a.revocations

    b.consumer.close()
    assert len(describe(bootstrap, topic + "-group").members) == 2, "the place is kept"
    back = Member(bootstrap, topic, "b")
    poll_until("the partitions are given back", [a, back], lambda: back.partitions() == of_b)

    usurper = Member(bootstrap, topic, "b")
    poll_until("the place is taken", [a, usurper], lambda: usurper.partitions() == of_b)
    poll_until("the one before is told", [a, usurper, back], lambda: back.fatal is not None)
    cause = back.fatal.str()
    assert "fenced" in cause.lower(), cause
    assert a.revocations == revocations, "the other member noticed nothing"
    for member in (a, usurper):
        offsets = [TopicPartition(topic, partition, 0) for partition in member.partitions()]
        member.consumer.commit(offsets=offsets, asynchronous=False)
        member.consumer.close()


def second(bootstrap, topic):
    group = topic + "-group"
    before = describe(bootstrap, group)
    assert len(before.members) == 2, "both places survive the restart"
    of_a = next(member for member in before.members if member.group_instance_id == "a")
    of_a = {partition.partition for partition in of_a.assignment.topic_partitions}
    a = Member(bootstrap, topic, "a")
    poll_until("the partitions survive the restart", [a], lambda: a.partitions() == of_a)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    asked = [ConsumerGroupTopicPartitions(group)]
    offsets = admin.list_consumer_group_offsets(asked)[group].result(DEADLINE).topic_partitions
    assert len(offsets) == PARTITIONS, offsets
    try:
        admin.delete_consumer_groups([group])[group].result(DEADLINE)
        raise AssertionError("a group with members was deleted")
    except KafkaException as error:
        assert error.args[0].code() == KafkaError.NON_EMPTY_GROUP, error
    a.consumer.close()


if __name__ == "__main__":
    part, bootstrap, topic = sys.argv[1:]
    {"first": first, "second": second}[part](bootstrap, topic)
    print(f"confluent groups {part}: ok")
