"""The work of bench/failover: see there."""

import argparse
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from prober import Prober

TOPIC = "failover"
BROKERS = 3
# Between two records of one partition.
PACE = 0.05
# Far beyond anything that works.
DEADLINE = 120
# Between two looks for acknowledgements where there are several producers: they are seen so much later.
POLLS = 0.002


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serving(admin):
    """Metadata also lists who died a moment ago."""
    return len(admin.describe_cluster(request_timeout=DEADLINE).result().nodes)


class Broker:
    def __init__(self, place, number, arguments):
        self.log = open(f"{place}/broker-{number}.log", "ab")
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.arguments = [*arguments, "--listen", self.address]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log
        )

    def revive(self, how):
        if how == "STOP":
            self.process.send_signal(signal.SIGCONT)
        else:
            self.process.wait()
            self.start()


class Load(threading.Thread):
    """Writes to partitions all the time, and knows when each was last acknowledged for what."""

    def __init__(
        self, bootstrap, partitions, timeout_ms=60_000, topic=TOPIC, pace=PACE, debug=None, client=(), producers=1
    ):
        super().__init__(daemon=True)
        settings = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 300_000}
        settings.update({"log_level": 7, "debug": debug} if debug else {"log_level": 0})
        settings.update({"socket.timeout.ms": timeout_ms, **dict(client)})
        # Partitions are dealt out to them in turn.
        self.producers = [Producer(settings) for _ in range(producers)]
        self.topic, self.pace = topic, pace
        # Those that are written to; may be replaced at any time.
        self.written = range(partitions)
        # For each partition: moments of acknowledgements, with the moment at which the record was given to the client.
        self.acknowledged = [[] for _ in range(partitions)]
        self.failures = []
        self.ending = False

    def run(self):
        def reported(partition, given):
            def report(error, _):
                if error is not None:
                    self.failures.append(str(error))
                self.acknowledged[partition].append((time.monotonic(), given))

            return report

        while not self.ending:
            given = time.monotonic()
            for partition in self.written:
                producer = self.producers[partition % len(self.producers)]
                producer.produce(self.topic, value=b"x" * 100, partition=partition, on_delivery=reported(partition, given))
            while (left := given + self.pace - time.monotonic()) > 0:
                for producer in self.producers[1:]:
                    producer.poll(0)
                self.producers[0].poll(left if len(self.producers) == 1 else min(left, POLLS))

    def flush(self):
        """Returns how many records were never acknowledged."""
        return sum(producer.flush(DEADLINE) for producer in self.producers)

    def first_after(self, partition, moment):
        """Seconds from `moment` to the first acknowledgement of what was given after it; None if there is none yet."""
        acknowledged = self.acknowledged[partition]
        return next((at - moment for at, given in list(acknowledged) if given >= moment), None)

    def longest_pause(self, partition, begin, end):
        moments = [begin, *(at for at, _ in list(self.acknowledged[partition]) if begin < at < end), end]
        return max(after - before for before, after in zip(moments, moments[1:]))


def leaders(admin, topic=TOPIC):
    topic = admin.list_topics(topic, timeout=DEADLINE).topics[topic]
    return {partition: info.leader for partition, info in topic.partitions.items()}


def wait_until(what, holds):
    deadline = time.monotonic() + DEADLINE
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"bench/failover: not within {DEADLINE} s: {what}")
        time.sleep(0.02)


def quantile(values, share):
    """By nearest rank."""
    return round(sorted(values)[max(1, math.ceil(share * len(values))) - 1], 3)


def summary(values):
    return {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "max": round(max(values), 3)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--signal", choices=["KILL", "STOP"], default="KILL")
    parser.add_argument("--wal", choices=["object", "block"], default="object")
    parser.add_argument("--machines", action="store_true", help="brokers take themselves to be on machines of their own")
    parser.add_argument("--partitions", type=int, default=30)
    parser.add_argument("--delay-ms", default="20-100")
    parser.add_argument("--ottla", default="target/release/ottla")
    parser.add_argument("--client-timeout-ms", type=int)
    parser.add_argument("--before-s", default="25-30", help="how long it is written before each signal")
    parser.add_argument("--keep", help="where logs go; a directory that is deleted otherwise")
    setting = lambda text: text.split("=", 1)
    parser.add_argument("--client", type=setting, action="append", default=[], help="a setting of librdkafka, NAME=VALUE")
    parser.add_argument("--debug", help="contexts of librdkafka's log, such as broker,topic,metadata; it goes to client.log")
    options = parser.parse_args()
    run(options, measure)


def run(options, measure):
    """Ends whatever `measure` has started."""
    children = []
    with tempfile.TemporaryDirectory() as place:
        place = options.keep or place
        os.makedirs(place, exist_ok=True)
        try:
            measure(options, place, children)
        finally:
            for child in children:
                process = child.process if isinstance(child, Broker) else child
                process.kill()
                process.wait()


def on_a_machine(number, place, arguments):
    """The same broker, as on another machine: a lock says nothing of it, and volumes are attached and waited for."""
    for name, text in [("machine", "%032x" % (0xABC0 + number)), ("boot", str(uuid.UUID(int=0xABC0 + number)))]:
        with open(f"{place}/{name}-{number}", "w") as file:
            file.write(text)
    pretend = (
        f"hostname machine-{number}; [ ! -e /etc/machine-id ] || mount --bind {place}/machine-{number} /etc/machine-id; "
        f'mount --bind {place}/boot-{number} /proc/sys/kernel/random/boot_id; exec "$@"'
    )
    return ["unshare", "--mount", "--uts", "sh", "-c", pretend, "sh", *arguments, "--wal-attach", "true"]


def cluster(options, place, children):
    """An S3 server that takes its time, and brokers on it: these, their addresses, and an admin client."""
    store_port = free_port()
    server = subprocess.Popen(
        [sys.executable, "bench/s3_server.py", str(store_port), "ottla", *options.delay_ms.split("-")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    children.append(server)

    def answers(port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until("the S3 server answers", lambda: answers(store_port))
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test-secret")
    brokers = []
    for number in range(1, BROKERS + 1):
        wal = "object" if options.wal == "object" else f"block://{place}/wal-{number}?capacity=64MiB"
        store = ["--store", "s3://ottla/bench", "--s3-endpoint", f"http://127.0.0.1:{store_port}", "--s3-allow-http"]
        arguments = [options.ottla, "serve", *store, "--wal", wal, "--node-id", str(number)]
        if getattr(options, "machines", False):
            arguments = on_a_machine(number, place, arguments)
        brokers.append(Broker(place, number, arguments))
        children.append(brokers[-1])
        wait_until(f"broker {number} answers", lambda: answers(brokers[-1].port))
    bootstrap = ",".join(broker.address for broker in brokers)
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    wait_until("all brokers serve", lambda: serving(admin) == BROKERS)
    return brokers, bootstrap, admin


def measure(options, place, children):
    brokers, bootstrap, admin = cluster(options, place, children)
    admin.create_topics([NewTopic(TOPIC, options.partitions, 1)])[TOPIC].result(DEADLINE)
    # A broker that hangs keeps its connections: what was sent to it is waited for, by default for a minute.
    timeout_ms = options.client_timeout_ms or (60_000 if options.signal == "KILL" else 1_000)
    if options.debug:
        # librdkafka logs there, with the time of day, as brokers do.
        os.dup2(os.open(f"{place}/client.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    load = Load(bootstrap, options.partitions, timeout_ms, debug=options.debug, client=options.client)
    load.start()
    everybody = range(options.partitions)
    all_affected, all_others, all_taken = [], [], []
    for number in range(options.rounds):
        settled = time.monotonic()
        wait_until("every partition is written", lambda: all(load.first_after(at, settled) for at in everybody))
        # Some log to be recovered, and not always at the same moment of whatever is done at intervals.
        time.sleep(random.uniform(*map(float, options.before_s.split("-"))))
        led = leaders(admin)
        # Who has most of them.
        victim = max(range(1, BROKERS + 1), key=lambda broker: list(led.values()).count(broker))
        affected = [at for at in everybody if led[at] == victim]
        struck, at = time.monotonic(), round(time.time(), 3)
        brokers[victim - 1].process.send_signal(getattr(signal, f"SIG{options.signal}"))
        survivors = [broker.address for broker in brokers if broker is not brokers[victim - 1]]
        prober = Prober(survivors, TOPIC, affected)
        prober.start()
        wait_until("every partition is written again", lambda: all(load.first_after(at, struck) for at in affected))
        healed = time.monotonic()
        wait_until("every partition takes what it is asked to", lambda: not prober.is_alive())
        taken = list(prober.taken.values())
        times = [load.first_after(at, struck) for at in affected]
        others = [load.longest_pause(at, struck, healed) for at in everybody if at not in affected]
        all_affected += times
        all_others += others
        all_taken += taken
        said = {"round": number + 1, "at": at, "victim": victim, "partitions": len(affected), "taken": summary(taken)}
        print(json.dumps({**said, "client": summary(times), "others": summary(others) if others else None}), flush=True)
        brokers[victim - 1].revive(options.signal)
        wait_until("all brokers serve again", lambda: serving(admin) == BROKERS)
    load.ending = True
    load.join()
    unfinished = load.flush()
    records = sum(len(acknowledged) for acknowledged in load.acknowledged)
    verdict = {"bench": "failover", "signal": options.signal, "wal": options.wal, "rounds": options.rounds}
    verdict["machines"] = options.machines
    verdict.update(delay_ms=options.delay_ms, before_s=options.before_s, partitions=options.partitions, taken=summary(all_taken))
    verdict.update(client=summary(all_affected))
    verdict.update(others=summary(all_others) if all_others else None, records=records)
    print(json.dumps({**verdict, "failed": len(load.failures) + unfinished}), flush=True)


if __name__ == "__main__":
    main()
