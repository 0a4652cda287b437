"""A client that asks all the time: who leads, and whether it takes a record. So it sees what brokers can do, and not how often a
client library looks: librdkafka asks once a second for a leader that it has lost."""

import socket
import struct
import threading
import time

PAUSE = 0.02
TIMEOUT = 2.0
METADATA, PRODUCE = 3, 0


def crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def crc32c(data, table=crc32c_table()):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def batch():
    """One record, of no producer in particular."""
    record = bytes([0, 0, 0, 1, 10]) + b"probe" + bytes([0])
    record = bytes([len(record) * 2]) + record
    now = int(time.time() * 1000)
    rest = struct.pack(">hiqqqhii", 0, 0, now, now, -1, -1, -1, 1) + record
    return struct.pack(">qiibI", 0, len(rest) + 9, -1, 2, crc32c(rest)) + rest


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


class Connection:
    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), TIMEOUT)
        self.socket.settimeout(TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, key, version, body):
        frame = struct.pack(">hhi", key, version, 1) + text("prober") + body
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)
        (length,) = struct.unpack(">i", self.read(4))
        return self.read(length)[4:]

    def read(self, length):
        read = b""
        while len(read) < length:
            more = self.socket.recv(length - len(read))
            if not more:
                raise ConnectionError("closed")
            read += more
        return read


def leaders(connection, topic):
    """Metadata v1: address of each partition's leader."""
    answer, at = connection.call(METADATA, 1, struct.pack(">i", 1) + text(topic)), 0

    def take(form):
        nonlocal at
        values = struct.unpack_from(">" + form, answer, at)
        at += struct.calcsize(">" + form)
        return values[0]

    def string():
        nonlocal at
        length = take("h")
        at += max(0, length)
        return answer[at - max(0, length) : at].decode()

    brokers = {}
    for _ in range(take("i")):
        number, host, port = take("i"), string(), take("i")
        brokers[number] = f"{host}:{port}"
        string()
    take("i")
    led = {}
    for _ in range(take("i")):
        take("h"), string(), take("b")
        for _ in range(take("i")):
            _, partition, leader = take("h"), take("i"), take("i")
            led[partition] = brokers.get(leader)
            for _ in range(2):
                replicas = take("i")
                at += 4 * replicas
    return led


def produce(connection, topic, partitions, record):
    """Produce v3: those that took it."""
    body = struct.pack(">hhii", -1, -1, int(TIMEOUT * 1000), 1) + text(topic) + struct.pack(">i", len(partitions))
    for partition in partitions:
        body += struct.pack(">ii", partition, len(record)) + record
    answer = connection.call(PRODUCE, 3, body)
    at = 4 + 2 + len(topic)
    (count,) = struct.unpack_from(">i", answer, at)
    rows = (struct.unpack_from(">ihqq", answer, at + 4 + 22 * row) for row in range(count))
    return [partition for partition, error, _, _ in rows if error == 0]


class Prober(threading.Thread):
    """From now on until each of `partitions` has taken a record: `taken` says when, in seconds."""

    def __init__(self, survivors, topic, partitions):
        super().__init__(daemon=True)
        self.survivors, self.topic, self.wanted = survivors, topic, set(partitions)
        self.taken, self.record, self.connections = {}, batch(), {}
        self.began = time.monotonic()

    def on(self, address, do):
        """What it says, or None where it cannot be reached."""
        try:
            if address not in self.connections:
                self.connections[address] = Connection(address)
            return do(self.connections[address])
        except OSError:
            self.connections.pop(address, None)
            return None

    def run(self):
        turn = 0
        while self.wanted:
            turn += 1
            asked = self.survivors[turn % len(self.survivors)]
            led = self.on(asked, lambda connection: leaders(connection, self.topic)) or {}
            for address in self.survivors:
                here = [partition for partition in self.wanted if led.get(partition) == address]
                if here:
                    took = self.on(address, lambda to: produce(to, self.topic, here, self.record)) or []
                    for partition in took:
                        self.taken[partition] = time.monotonic() - self.began
                    self.wanted -= set(took)
            time.sleep(PAUSE)
        for connection in self.connections.values():
            connection.socket.close()
