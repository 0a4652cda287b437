"""The work of bench/failover-many: see there."""

import argparse
import json
import random
import signal
import time

from confluent_kafka.admin import NewTopic

from failover import DEADLINE, Load, cluster, run, summary, wait_until
from prober import Prober

TOPIC = "many"
# How many are written to all the time, a record each in so many seconds: all of them would keep the client busy.
WRITTEN, PACE = 20, 0.5


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--partitions", type=int, default=1000)
    parser.add_argument("--signal", choices=["KILL", "STOP"], default="KILL")
    parser.add_argument("--wal", choices=["object", "block"], default="object")
    parser.add_argument("--delay-ms", default="20-100")
    parser.add_argument("--before-s", default="20-25", help="how long it is written before the signal")
    parser.add_argument("--ottla", default="target/release/ottla")
    parser.add_argument("--keep", help="where logs go; a directory that is deleted otherwise")
    run(parser.parse_args(), measure)


def measure(options, place, children):
    brokers, bootstrap, admin = cluster(options, place, children)
    placed = NewTopic(TOPIC, num_partitions=options.partitions, replica_assignment=[[1]] * options.partitions)
    admin.create_topics([placed])[TOPIC].result(DEADLINE)
    load = Load(bootstrap, options.partitions, topic=TOPIC, pace=PACE)
    written = range(options.partitions)[:: max(1, options.partitions // WRITTEN)]
    load.start()
    wait_until("every partition is written", lambda: all(load.acknowledged))
    load.written = written
    time.sleep(random.uniform(*map(float, options.before_s.split("-"))))
    struck = time.monotonic()
    brokers[0].process.send_signal(getattr(signal, f"SIG{options.signal}"))
    prober = Prober([broker.address for broker in brokers[1:]], TOPIC, range(options.partitions))
    prober.start()
    wait_until("every partition takes what it is asked to", lambda: not prober.is_alive())
    wait_until("those that were written are again", lambda: all(load.first_after(at, struck) for at in written))
    client = summary([load.first_after(at, struck) for at in written])
    load.ending = True
    load.join()
    unfinished = load.flush()
    asked = {"bench": "failover-many", "signal": options.signal, "wal": options.wal, "delay_ms": options.delay_ms}
    taken = summary(list(prober.taken.values()))
    figures = {"partitions": options.partitions, "taken": taken, "client": client}
    print(json.dumps({**asked, **figures, "failed": len(load.failures) + unfinished}), flush=True)


if __name__ == "__main__":
    main()
