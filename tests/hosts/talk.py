"""A program for hosts: send bytes to another host, or take and time them."""

from __future__ import annotations

import socket
import sys
import time

PORT = 5000


def take() -> None:
    """Take all that one sender sends; print bytes and seconds from the first to the last."""
    with socket.create_server(("0.0.0.0", PORT)) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
        begin, taken = time.perf_counter(), 0
        while piece := connection.recv(1 << 16):
            taken += len(piece)
        print(taken, time.perf_counter() - begin, flush=True)


def send(host: str, num_bytes: int) -> None:
    with socket.create_connection((host, PORT), timeout=2) as connection:
        connection.settimeout(None)
        connection.sendall(bytes(num_bytes))


if __name__ == "__main__":
    if sys.argv[1] == "take":
        take()
    else:
        send(sys.argv[2], int(sys.argv[3]))
