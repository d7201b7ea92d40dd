"""What stands in for the bridge where hosts are to be far apart: a switch that delays and loses.

Run as a script, in the switch's namespace: `python -I -S relay.py LATENCY_MS JITTER_MS LOSS SEED
PORT...` (see `Disturbance`). It imports nothing of the package. It writes a line when it forwards,
and ends with its standard input. What comes in at a port, after the rate limit of the host there,
waits, and goes out at the port of the host it is for, before that one's rate limit. It says so, and
fails, if it lost anything of its own accord.
"""

import contextlib
import errno
import heapq
import os
import random
import select
import socket
import struct
import sys
import time

# Of linux/if_packet.h, if_ether.h and asm-generic/socket.h; Python does not name them.
SOL_PACKET, STATISTICS, VNET_HDR, IGNORE_OUTGOING = 263, 6, 15, 23
ETH_P_ALL = 3
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
# Before each frame stands the kernel's note of what is left to do for a network card: whether a
# checksum is to be filled in, and what size of segments a packet of up to 64 KiB is to be cut into.
NOTE = struct.Struct("=BBHHHH")
NEEDS_CHECKSUM, NO_SEGMENTS, TCP_SEGMENTS, HAS_ECN = 1, 0, 1, 0x80
ETHERNET = 14
IPV4 = b"\x08\x00"
FIN_AND_PUSH, REDUCED = 0x09, 0x80
LARGEST = NOTE.size + ETHERNET + 65_536
BUFFER_BYTES = 1 << 30
# Frames that are read before those that are due are sent.
AT_ONCE = 64


class Port:
    """A link's end, with a generator of its own: what one host sends changes no other's losses."""

    def __init__(self, name: str, seed: str) -> None:
        self.random = random.Random(f"{seed} {name}")
        self.last_due = 0.0
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(SOL_PACKET, VNET_HDR, 1)
        self.socket.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
        # What waits for the link is counted in the first, what waits to be read in the second.
        for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):  # of the machine's root alone
            self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self.socket.bind((name, ETH_P_ALL))
        self.socket.setblocking(False)

    def send(self, frame: bytes) -> None:
        try:
            self.socket.send(frame)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # the link's queue is full, as in any switch
                raise

    def lost(self) -> int:
        """Number of frames for which the buffer had no room."""
        counts = self.socket.getsockopt(SOL_PACKET, STATISTICS, 8)
        return int.from_bytes(counts[4:], sys.byteorder)


def ones_sum(data: bytes | bytearray) -> int:
    """The sum that internet checksums are made of."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def survivors(frame: bytes, loss: float, generator: random.Random) -> list[bytes]:
    """What is left of a frame when each packet on the wire may get lost: a loss leaves a gap."""
    _, kind, _, size, tcp, _ = NOTE.unpack_from(frame)
    if kind & ~HAS_ECN != TCP_SEGMENTS:
        return [] if generator.random() < loss else [frame]
    head = tcp + (frame[NOTE.size + tcp + 12] >> 4) * 4
    count = -(-(len(frame) - NOTE.size - head) // size)
    gaps = [number for number in range(count) if generator.random() < loss]
    if not gaps:
        return [frame]
    pieces = zip([0, *(gap + 1 for gap in gaps)], [*gaps, count], strict=True)
    return [cut(frame, head, count, begin, end) for begin, end in pieces if begin < end]


def cut(frame: bytes, head: int, count: int, begin: int, end: int) -> bytes:
    """Some of a frame's `count` segments, as a frame; `head`: length of the headers."""
    _, kind, _, size, tcp, check = NOTE.unpack_from(frame)
    headers = bytearray(frame[NOTE.size : NOTE.size + head])
    data = frame[NOTE.size + head :][begin * size : end * size]
    length, number, checksum, sequence = ETHERNET + 2, ETHERNET + 4, ETHERNET + 10, tcp + 4
    struct.pack_into("!H", headers, length, head - ETHERNET + len(data))
    (first,) = struct.unpack_from("!H", headers, number)
    struct.pack_into("!H", headers, number, (first + begin) & 0xFFFF)
    struct.pack_into("!H", headers, checksum, 0)
    struct.pack_into("!H", headers, checksum, ones_sum(headers[ETHERNET:tcp]) ^ 0xFFFF)
    (first,) = struct.unpack_from("!I", headers, sequence)
    struct.pack_into("!I", headers, sequence, (first + begin * size) & 0xFFFFFFFF)
    if end < count:
        headers[tcp + 13] &= ~FIN_AND_PUSH
    if begin > 0:
        headers[tcp + 13] &= ~REDUCED
    # Of what is summed besides the packet: the addresses, TCP's number and the length.
    rest = struct.pack("!HH", socket.IPPROTO_TCP, head - tcp + len(data))
    addresses = headers[ETHERNET + 12 : ETHERNET + 20]
    struct.pack_into("!H", headers, tcp + check, ones_sum(addresses + rest))
    kind, size = (kind, size) if len(data) > size else (NO_SEGMENTS, 0)
    return NOTE.pack(NEEDS_CHECKSUM, kind, head, size, tcp, check) + headers + data


class Switch:
    """What is under way between the ports; both times in seconds."""

    def __init__(self, ports: list[Port], latency: float, jitter: float, loss: float) -> None:
        self.ports, self.latency, self.jitter, self.loss = ports, latency, jitter, loss
        self.found: dict[bytes, Port] = {}  # behind which port an Ethernet address is
        self.waiting: list[tuple[float, int, Port, bytes]] = []
        self.number = 0

    def read(self, port: Port) -> None:
        """Take what has come in."""
        for _ in range(AT_ONCE):
            try:
                frame = port.socket.recv(LARGEST)
            except BlockingIOError:
                return
            destination, source, kind = frame[10:16], frame[16:22], frame[22:24]
            self.found[source] = port
            is_at_risk = self.loss > 0 and kind == IPV4
            frames = survivors(frame, self.loss, port.random) if is_at_risk else [frame]
            due = time.monotonic() + self.latency
            if self.jitter:
                due += port.random.uniform(-self.jitter, self.jitter)
            # No frame overtakes one from the same host.
            port.last_due = max(port.last_due, due)
            receiver = self.found.get(destination)
            others = (other for other in self.ports if other is not port)
            for each in others if receiver is None else (receiver,):
                for piece in frames:
                    self.number += 1
                    heapq.heappush(self.waiting, (port.last_due, self.number, each, piece))

    def seconds_left(self) -> float | None:
        """Until a frame is due; None where none waits."""
        return max(0.0, self.waiting[0][0] - time.monotonic()) if self.waiting else None

    def send_due(self) -> None:
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            _, _, port, frame = heapq.heappop(self.waiting)
            port.send(frame)

    def forward(self) -> None:
        """Do so until the standard input ends."""
        numbered = {port.socket.fileno(): port for port in self.ports}
        end = sys.stdin.fileno()  # nobody writes to it: it can be read when its other end is gone
        while True:
            ready, _, _ = select.select([end, *numbered], [], [], self.seconds_left())
            if end in ready:
                return
            for number in ready:
                self.read(numbered[number])
            self.send_due()


def main() -> None:
    latency_ms, jitter_ms, loss, seed, *names = sys.argv[1:]
    with contextlib.suppress(PermissionError):  # a network does not wait for the hosts' computing
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    ports = [Port(name, seed) for name in names]
    print("ready", flush=True)
    Switch(ports, float(latency_ms) / 1000, float(jitter_ms) / 1000, float(loss)).forward()
    lost = sum(port.lost() for port in ports)
    if lost:
        sys.exit(f"relay: {lost} frames got lost before they were read")


if __name__ == "__main__":
    main()
