"""The work of bench/moves: see there."""

import argparse
import json
import os
import random
import subprocess
import time

from confluent_kafka.admin import NewTopic
from kafka import KafkaAdminClient, TopicPartition

from failover import BROKERS, DEADLINE, Load, cluster, leaders, run, summary, wait_until

TOPIC, DRAINED = "moves", "drained"
PACE = 0.05
# Of the many partitions that are drained, how many are written to meanwhile, a record each in so many seconds. librdkafka sends one
# partition a request and has five under way to a broker: more of them would wait for each other, drain or not, where each takes a PUT.
DRAIN_WRITTEN, DRAIN_PACE = 20, 0.5
# What a move may still show after the metadata says that it is done.
AFTER = 1.0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--group", type=int, default=10)
    parser.add_argument("--drain", type=int, default=1000)
    parser.add_argument("--wal", choices=["object", "block"], default="object")
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--producers", type=int, default=12)
    parser.add_argument("--delay-ms", default="20-100")
    parser.add_argument("--ottla", default="target/release/ottla")
    parser.add_argument("--keep", help="where logs go; a directory that is deleted otherwise")
    options = parser.parse_args()
    run(options, measure)


def say(kind, options, load, **figures):
    asked = {"bench": "moves", "kind": kind, "wal": options.wal, "delay_ms": options.delay_ms}
    asked["producers"] = len(load.producers)
    records = sum(len(acknowledged) for acknowledged in load.acknowledged)
    print(json.dumps({**asked, **figures, "records": records, "failed": len(load.failures)}), flush=True)


def move(options, admin, mover, load, group):
    """Moves `group` partitions of as many brokers as lead them; pauses of those, and of all that did not move."""
    led = leaders(admin, TOPIC)
    moving = random.sample(range(options.partitions), group)
    to = {at: random.choice([broker for broker in range(1, BROKERS + 1) if broker != led[at]]) for at in moving}
    began = time.monotonic()
    refused = mover.alter_partition_reassignments({TopicPartition(TOPIC, at): [to[at]] for at in moving})
    assert not any(refused.values()), refused

    def moved():
        led = leaders(admin, TOPIC)
        return all(led[at] == to[at] for at in moving)

    wait_until("the partitions are led where they should be", moved)
    arrived = time.monotonic()
    wait_until("they are written", lambda: all(load.first_after(at, arrived) for at in moving))
    time.sleep(AFTER)
    ended = time.monotonic()
    pauses = [load.longest_pause(at, began, ended) for at in range(options.partitions)]
    return [pauses[at] for at in moving], [pauses[at] for at in range(options.partitions) if at not in moving]


def measure(options, place, children):
    brokers, bootstrap, admin = cluster(options, place, children)
    mover = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(TOPIC, options.partitions, 1)])[TOPIC].result(DEADLINE)
    load = Load(bootstrap, options.partitions, topic=TOPIC, pace=PACE, producers=options.producers)
    load.start()
    everybody = range(options.partitions)
    for group in dict.fromkeys([1, options.group]):
        settled = time.monotonic()
        wait_until("every partition is written", lambda: all(load.first_after(at, settled) for at in everybody))
        moved, unmoved = [], []
        while len(moved) < options.moves:
            one, others = move(options, admin, mover, load, group)
            moved += one
            unmoved += others
        over = sum(pause > 0.3 for pause in moved)
        figures = {"moves": len(moved), "seconds": summary(moved), "over_300ms": over, "unmoved": summary(unmoved)}
        say(f"{group} at a time", options, load, **figures)
    end(load)
    if options.drain:
        drain(options, brokers, bootstrap, admin)


def end(load):
    load.ending = True
    load.join()
    unfinished = load.flush()
    assert unfinished == 0, f"{unfinished} records were never acknowledged"


def drain(options, brokers, bootstrap, admin):
    placed = NewTopic(DRAINED, num_partitions=options.drain, replica_assignment=[[1]] * options.drain)
    admin.create_topics([placed])[DRAINED].result(DEADLINE)
    load = Load(bootstrap, options.drain, topic=DRAINED, pace=DRAIN_PACE)
    everybody = range(options.drain)
    written = everybody[:: max(1, options.drain // DRAIN_WRITTEN)]
    load.start()
    # All of them are open, and have something that must not be left behind.
    wait_until("every partition is written", lambda: all(load.acknowledged))
    load.written = written
    settled = time.monotonic()
    wait_until("those that were written are", lambda: all(load.first_after(at, settled) for at in written))
    began = time.monotonic()
    command = [options.ottla, "cluster", "drain", "1", "--bootstrap", brokers[1].address]
    draining = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until("nothing is led there", lambda: 1 not in leaders(admin, DRAINED).values())
    elsewhere = time.monotonic()
    wait_until("the command returns", lambda: draining.poll() is not None)
    assert draining.returncode == 0, "ottla cluster drain failed"
    wait_until("they are written again", lambda: all(load.first_after(at, elsewhere) for at in written))
    time.sleep(AFTER)
    ended = time.monotonic()
    pauses = [load.longest_pause(at, began, ended) for at in written]
    load.written = everybody
    wait_until("all are written again", lambda: all(load.first_after(at, ended) for at in everybody))
    last = max(load.first_after(at, ended) for at in everybody)
    figures = {"partitions": options.drain, "led_elsewhere": round(elsewhere - began, 3), "written": len(written)}
    figures.update(pauses=summary(pauses), a_record_to_each=round(last, 3))
    say("drain", options, load, **figures)
    end(load)


if __name__ == "__main__":
    main()
