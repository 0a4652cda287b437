"""What librdkafka is asked to do while brokers die, and what it says became of it: a history for the checker.

ops.py run  BOOTSTRAP TOPIC PARTITIONS CLIENT PACE_MS HISTORY   writes and reads until standard input ends
ops.py read BOOTSTRAPS TOPIC PARTITIONS CLIENT HISTORY          everything once more, through each address (a;b;c) in turn

The history is in the form that sim/checker reads (its json.rs), one line for each operation's beginning and end. Times are
CLOCK_MONOTONIC, which all processes of a host share; keys are partitions; values are numbers that no other record has.
What is no operation is a line {"time", "note"}, or {"time", "violation"} if it may never happen.
"""

import heapq
import json
import random
import struct
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

LANES = 2  # records under way for each partition
DELIVERY_MS = 300_000  # a producer that gives up goes on in a new epoch, with what it had under way twice; runs end before
DEADLINE = 180
PROBE_PAUSE = 0.5
PROBE_TIMEOUT = 10
PROCESSES = 1_000_000  # of a client
VALUES = 1_000_000_000  # of a client
GROUP, GROUP_MEMBERS = "librdkafka", 2
# Nothing is ever deleted: every position that a reader has is in range.
OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
# A client whose broker is gone is patient; it would say so only in its log.
QUIET = {"log_level": 0, "log.connection.close": False}


def content(number):
    return f"{number} ".encode() + b"x" * (number % 300)


class History:
    def __init__(self, path, client):
        self.file, self.lock = open(path, "w", buffering=1), threading.Lock()
        self.processes = iter(range(client * PROCESSES, (client + 1) * PROCESSES))
        self.numbers = iter(range(client * VALUES, (client + 1) * VALUES))

    def line(self, **fields):
        fields.setdefault("time", time.monotonic_ns())
        with self.lock:
            self.file.write(json.dumps(fields, separators=(",", ":")) + "\n")

    def instant(self, process, f, value, **more):
        self.line(process=process, type="ok", f=f, value=value, **more)

    def process(self):
        with self.lock:
            return next(self.processes)

    def note(self, text):
        self.line(note=text)

    def violation(self, text):
        self.line(violation=text)


class Writer:
    """An idempotent producer. Each lane sends its next record when it knows what became of the one before."""

    def __init__(self, history, bootstrap, topic, partitions, pace):
        self.history, self.bootstrap, self.topic, self.pace = history, bootstrap, topic, pace
        self.due = []
        self.under_way = {}
        self.begin_anew()
        for at in range(LANES * partitions):
            self.later(at % partitions)

    def begin_anew(self):
        self.fatal = None
        self.process = self.history.process()
        settings = {
            "bootstrap.servers": self.bootstrap,
            "enable.idempotence": True,
            "message.timeout.ms": DELIVERY_MS,
            "error_cb": self.on_error,
        }
        self.producer = Producer(settings | QUIET)

    def on_error(self, error):
        if error.fatal():
            self.fatal = error

    def later(self, partition):
        heapq.heappush(self.due, (time.monotonic() + self.pace * random.uniform(0.5, 1.5), partition))

    def line(self, kind, partition, number, value, **more):
        operation = {"process": self.process, "call": number, "type": kind, "f": "send"}
        self.history.line(**operation, value=[["send", str(partition), value]], **more)

    def begin(self, partition):
        number = next(self.history.numbers)
        self.line("invoke", partition, number, number)
        self.under_way[number] = partition
        report = lambda error, message: self.ended(partition, number, error, message)  # noqa: E731
        try:
            self.producer.produce(self.topic, value=content(number), partition=partition, on_delivery=report)
        except KafkaException as error:
            self.ended(partition, number, error.args[0], None)

    def ended(self, partition, number, error, message):
        if self.under_way.pop(number, None) is None:
            return  # given up already
        if error is None:
            self.line("ok", partition, number, [message.offset(), number])
        else:
            self.line("info", partition, number, number, error=error.name())
            self.history.note(f"a send ended in doubt: {error.str()}")
        self.later(partition)

    def give_up(self, error):
        for number, partition in list(self.under_way.items()):
            self.ended(partition, number, error, None)

    def replace_producer(self):
        self.history.note(f"fatal to the producer: {self.fatal.str()}")
        self.producer.purge()
        self.producer.flush(1)
        self.give_up(self.fatal)
        self.begin_anew()

    def run(self, stopping):
        while not stopping.is_set():
            while self.due and self.due[0][0] <= time.monotonic():
                self.begin(heapq.heappop(self.due)[1])
            self.producer.poll(0.005)
            if self.fatal:
                self.replace_producer()
        deadline = time.monotonic() + DEADLINE
        while self.under_way and not self.fatal and time.monotonic() < deadline:
            self.producer.poll(0.1)
        self.give_up(KafkaError(KafkaError._TIMED_OUT))


def polled(history, process, began, messages, rebalanced=()):
    """An operation of what one poll returned, if that is anything."""
    found = {}
    for message in messages:
        if message.error():
            tell = history.violation if message.error().code() in OUT_OF_RANGE else history.note
            tell(f"a reader was told: {message.error().str()}")
            continue
        number = int(message.value().split()[0])
        if message.value() != content(number):
            history.violation(f"other bytes at {message.partition()}:{message.offset()}: {message.value()[:40]}")
        found.setdefault(str(message.partition()), []).append([message.offset(), number])
    if found or rebalanced:
        more = {"rebalanced": sorted(rebalanced)} if rebalanced else {}
        history.line(time=began, process=process, type="invoke", f="poll", value=[["poll"]])
        history.line(process=process, type="ok", f="poll", value=[["poll", found]], **more)
    return found


def new_consumer(bootstrap, group, reset):
    settings = {"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False}
    return Consumer(settings | {"auto.offset.reset": reset} | QUIET)


def assign_all(history, consumer, topic, partitions):
    process = history.process()
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    history.instant(process, "assign", [str(partition) for partition in range(partitions)], seek=True)
    return process


def assigned(history, bootstrap, topic, partitions, stopping):
    """Reads every partition, without a group, from the beginning."""
    consumer = new_consumer(bootstrap, "nobody", "error")
    process = assign_all(history, consumer, topic, partitions)
    while not stopping.is_set():
        began = time.monotonic_ns()
        polled(history, process, began, consumer.consume(500, timeout=0.1))
    consumer.close()


def member(history, bootstrap, topic, partitions, stopping):
    """Reads what its group gives it, and commits what it read before it polls again."""
    process = history.process()
    moved, own = set(), set()

    def given(_, partitions):
        keys = {str(partition.partition) for partition in partitions}
        moved.update(keys)
        own.update(keys)
        now = generation(consumer)
        if now is not None:
            # In the middle of a poll, which is why it is numbered.
            more = {"process": process, "call": now, "f": "join", "group": GROUP, "generation": now}
            history.line(type="invoke", value=[], **more)
            history.line(type="ok", value=sorted(own), **more)

    def taken(_, partitions):
        keys = {str(partition.partition) for partition in partitions}
        moved.update(keys)
        own.difference_update(keys)

    consumer = new_consumer(bootstrap, GROUP, "earliest")
    history.instant(process, "subscribe", [str(partition) for partition in range(partitions)], group=GROUP)
    consumer.subscribe([topic], on_assign=given, on_revoke=taken, on_lost=taken)
    while not stopping.is_set():
        began = time.monotonic_ns()
        messages = consumer.consume(500, timeout=0.1)
        rebalanced = set(moved)
        moved.clear()
        found = polled(history, process, began, messages, rebalanced)
        if found:
            commit(history, consumer, process, topic, found)
    consumer.close()


def generation(consumer):
    """The number stands in what the client hands to a transactional producer, behind a word and before the names."""
    opaque = consumer.consumer_group_metadata()
    if not opaque.startswith(b"CGMDv2:"):
        return None
    return struct.unpack_from("<i", opaque, len(b"CGMDv2:"))[0]


def commit(history, consumer, process, topic, found):
    value = {key: records[-1][0] + 1 for key, records in found.items()}
    more = {"process": process, "f": "commit", "value": value, "group": GROUP}
    if (now := generation(consumer)) is not None:
        more["generation"] = now
    history.line(type="invoke", **more)
    try:
        offsets = [TopicPartition(topic, int(key), end) for key, end in value.items()]
        for done in consumer.commit(offsets=offsets, asynchronous=False):
            if done.error:
                raise KafkaException(done.error)
        history.line(type="ok", **more)
    except KafkaException as error:
        history.line(type="info", error=error.args[0].name(), **more)


def probe(history, bootstrap, topic, partitions, stopping):
    """Asks for the ends of one partition after the other, and for what the group has committed."""
    consumer = new_consumer(bootstrap, GROUP, "error")
    process = history.process()
    at = 0
    while not stopping.wait(PROBE_PAUSE / partitions):
        at = (at + 1) % partitions
        watermarks(history, consumer, process, topic, [at], PROBE_TIMEOUT)
        if at == 0:
            asked = {"process": process, "f": "committed", "group": GROUP}
            history.line(type="invoke", value={}, **asked)
            try:
                every = [TopicPartition(topic, partition) for partition in range(partitions)]
                answer = consumer.committed(every, timeout=PROBE_TIMEOUT)
                value = {str(one.partition): one.offset if one.offset >= 0 else None for one in answer if not one.error}
                history.line(type="ok", value=value, **asked)
            except KafkaException as error:
                history.line(type="info", value={}, error=error.args[0].name(), **asked)
    consumer.close()


def watermarks(history, consumer, process, topic, partitions, timeout):
    asked = {"process": process, "f": "watermarks"}
    history.line(type="invoke", value={}, **asked)
    try:
        ends = {}
        for partition in partitions:
            ends[str(partition)] = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout)
        history.line(type="ok", value=ends, **asked)
        return ends
    except KafkaException as error:
        history.line(type="info", value={}, error=error.args[0].name(), **asked)
        return None


def run(bootstrap, topic, partitions, client, pace, path):
    history = History(path, client)
    threading.excepthook = lambda ended: history.violation(f"a thread ended: {ended.exc_value!r}")
    stopping = threading.Event()
    threads = [
        threading.Thread(target=target, args=(history, bootstrap, topic, partitions, stopping), daemon=True)
        for target in [assigned, probe] + GROUP_MEMBERS * [member]
    ]
    for thread in threads:
        thread.start()
    writing = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), writing.set()), daemon=True).start()
    Writer(history, bootstrap, topic, partitions, pace).run(writing)
    stopping.set()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), "a reader does not end"


def read(bootstraps, topic, partitions, client, path):
    history = History(path, client)
    for bootstrap in bootstraps.split(";"):
        consumer = new_consumer(bootstrap, "nobody", "error")
        ends, deadline = None, time.monotonic() + DEADLINE
        while ends is None:
            # It may be told that a partition is just moving; then it is asked again, by somebody else as far as the history goes.
            assert time.monotonic() < deadline, f"{bootstrap} does not tell the ends"
            ends = watermarks(history, consumer, history.process(), topic, range(partitions), DEADLINE)
        process = assign_all(history, consumer, topic, partitions)
        behind = {key for key, (start, end) in ends.items() if end > start}
        deadline, count = time.monotonic() + DEADLINE, 0
        while behind:
            assert time.monotonic() < deadline, f"{bootstrap}: nothing more of {behind}, which should reach {ends}"
            began = time.monotonic_ns()
            for key, records in polled(history, process, began, consumer.consume(1000, timeout=0.1)).items():
                count += len(records)
                if records[-1][0] + 1 >= ends[key][1]:
                    behind.discard(key)
        consumer.close()
        print(f"{bootstrap} {count}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        bootstrap, topic, partitions, client, pace, path = sys.argv[2:]
        run(bootstrap, topic, int(partitions), int(client), int(pace) / 1000, path)
    else:
        bootstraps, topic, partitions, client, path = sys.argv[2:]
        read(bootstraps, topic, int(partitions), int(client), path)
