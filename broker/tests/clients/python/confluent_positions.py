"""Positions that are not there any more, and positions that a restart must not put in doubt, with librdkafka:
confluent_positions.py first|live|second BOOTSTRAP TOPIC. The broker is restarted while `live` waits for a line."""

import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

DEADLINE = 120
# Where the log begins after a deletion, and where it ends.
START, END = 10, 20


def consumer(bootstrap, reset):
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "positions",
            "auto.offset.reset": reset,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )


def read(reader, count):
    """So many records, or the first error."""
    records, deadline = [], time.monotonic() + DEADLINE
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records came"
        message = reader.poll(0.1)
        if message is None or (message.error() and message.error().code() == KafkaError._PARTITION_EOF):
            continue
        if message.error():
            raise KafkaException(message.error())
        records.append(message)
    return records


def produce(bootstrap, topic, offsets):
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for offset in offsets:
        producer.produce(topic, f"v{offset}", partition=0)
    assert producer.flush(DEADLINE) == 0


def earliest(admin, topic):
    at = TopicPartition(topic, 0)
    return admin.list_offsets({at: OffsetSpec.earliest()})[at].result(DEADLINE).offset


def retention(admin, topic, ms):
    entry = ConfigEntry("retention.ms", ms, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(DEADLINE)


def gone(bootstrap, topic):
    reader = consumer(bootstrap, "earliest")
    reader.assign([TopicPartition(topic, 0, 5)])
    records = read(reader, END - START)
    found = [(record.offset(), record.value()) for record in records]
    assert found == [(offset, f"v{offset}".encode()) for offset in range(START, END)], found
    reader.close()

    # At the end there is one event that says so, and no record before it.
    reader = consumer(bootstrap, "latest")
    reader.assign([TopicPartition(topic, 0, 5)])
    deadline, message = time.monotonic() + DEADLINE, None
    while message is None:
        assert time.monotonic() < deadline, "latest"
        message = reader.poll(0.1)
    assert message.error() and message.error().code() == KafkaError._PARTITION_EOF, message.value()
    assert message.offset() == END, message.offset()
    reader.close()

    reader = consumer(bootstrap, "error")
    reader.assign([TopicPartition(topic, 0, 5)])
    try:
        record = read(reader, 1)
        raise AssertionError(f"a record came: {record}")
    except KafkaException as error:
        assert error.args[0].code() == KafkaError._AUTO_OFFSET_RESET, error
        assert "out of range" in error.args[0].str().lower(), error
    reader.close()


def first(bootstrap, topic):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    retained = topic + "-retained"
    for name in (topic, retained):
        admin.create_topics([NewTopic(name, 1, -1, config={"retention.ms": "-1"})])[name].result(DEADLINE)
        produce(bootstrap, name, range(START))
    for deleted in admin.delete_records([TopicPartition(topic, 0, START)]).values():
        assert deleted.result(DEADLINE).low_watermark == START
    retention(admin, retained, "1")
    deadline = time.monotonic() + DEADLINE
    while earliest(admin, retained) < START:
        assert time.monotonic() < deadline, "retention takes what is too old"
        time.sleep(0.05)
    retention(admin, retained, "-1")
    for name in (topic, retained):
        assert earliest(admin, name) == START
        produce(bootstrap, name, range(START, END))
        gone(bootstrap, name)


def live(bootstrap, topic):
    reader = consumer(bootstrap, "error")
    reader.assign([TopicPartition(topic, 0, START)])
    read(reader, END - START)
    print("live: waiting", flush=True)
    sys.stdin.readline()
    produce(bootstrap, topic, [END])
    deadline = time.monotonic() + DEADLINE
    while True:
        assert time.monotonic() < deadline, "it does not go on"
        try:
            (record,) = read(reader, 1)
            break
        except KafkaException as error:
            # The broker was away; nothing is said of the log.
            code = error.args[0].code()
            assert code in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN), error
    assert (record.offset(), record.value()) == (END, f"v{END}".encode()), record.offset()
    assert record.leader_epoch() == 1, record.leader_epoch()
    reader.close()


def second(bootstrap, topic):
    produce(bootstrap, topic, range(END + 1, END + 5))
    # All of that epoch is there: the rest is the next one's.
    for offset in (START, START + 3, END):
        reader = consumer(bootstrap, "error")
        reader.assign([TopicPartition(topic, 0, offset, leader_epoch=0)])
        assert read(reader, END + 5 - offset)[0].offset() == offset
        reader.close()
    # Nothing of that epoch is there: what was read was lost, if it ever was.
    reader = consumer(bootstrap, "error")
    reader.assign([TopicPartition(topic, 0, END + 3, leader_epoch=0)])
    try:
        record = read(reader, 1)
        raise AssertionError(f"a lost past is not noticed: {record[0].offset()}")
    except KafkaException as error:
        assert error.args[0].code() == KafkaError._AUTO_OFFSET_RESET, error
        said = error.args[0].str()
        assert "truncation detected" in said and f"broker end offset is {END} " in said, said
    reader.close()
    reader = consumer(bootstrap, "earliest")
    reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    assert read(reader, END + 5 - START)[0].offset() == START
    reader.close()


if __name__ == "__main__":
    part, bootstrap, topic = sys.argv[1:]
    {"first": first, "live": live, "second": second}[part](bootstrap, topic)
    print(f"confluent positions {part}: ok")
