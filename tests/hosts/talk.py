"""A program for hosts: take bytes from another host, or send and time them; echo, or ask."""

from __future__ import annotations

import json
import random
import socket
import sys
import time
import zlib

PORT = 5000
# After which no answer is waited for any more.
_QUIET_SECONDS = 2.0


def take() -> None:
    """Take all that one sender sends, and say so to it; print how many bytes, and a checksum."""
    with socket.create_server(("0.0.0.0", PORT)) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
        taken = checksum = 0
        while piece := connection.recv(1 << 16):
            taken += len(piece)
            checksum = zlib.crc32(piece, checksum)
        connection.sendall(b"all")
        print(taken, checksum, flush=True)


def send(host: str, num_bytes: int) -> None:
    """Send so many; print the seconds until the other has all, and a checksum."""
    sent = random.Random(0).randbytes(num_bytes)
    begin = time.perf_counter()
    with socket.create_connection((host, PORT), timeout=2) as connection:
        connection.settimeout(None)
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(3, socket.MSG_WAITALL) == b"all"
    print(time.perf_counter() - begin, zlib.crc32(sent))


def echo() -> None:
    """Send every datagram back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", PORT))
        print("listening", flush=True)
        while True:
            piece, sender = server.recvfrom(100)
            server.sendto(piece, sender)


def ask(host: str, count: int, limit_seconds: float) -> None:
    """Send numbered datagrams; print the numbers that come back, each with the seconds it took.

    Each is waited for before the next, until nothing has come for so long; all at the end.
    """
    begins: list[float] = []
    answers: list[tuple[int, float]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((host, PORT))

        def await_number(number: int, seconds: float) -> None:
            while not answers or answers[-1][0] != number:
                asking.settimeout(seconds)
                try:
                    answer = int(asking.recv(100))
                except TimeoutError:
                    return
                answers.append((answer, time.perf_counter() - begins[answer]))

        for number in range(count):
            begins.append(time.perf_counter())
            asking.send(str(number).encode())
            if limit_seconds:
                await_number(number, limit_seconds)
        await_number(count - 1, _QUIET_SECONDS)
    print(json.dumps(answers))


if __name__ == "__main__":
    action, *words = sys.argv[1:]
    if action == "take":
        take()
    elif action == "send":
        send(words[0], int(words[1]))
    elif action == "echo":
        echo()
    else:
        ask(words[0], int(words[1]), float(words[2]))
