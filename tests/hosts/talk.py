"""A program for hosts: take bytes from another host, or send and time them."""

from __future__ import annotations

import socket
import sys
import time

PORT = 5000


def take() -> None:
    """Take all that one sender sends, and say so to it; print the number of bytes."""
    with socket.create_server(("0.0.0.0", PORT)) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
        taken = 0
        while piece := connection.recv(1 << 16):
            taken += len(piece)
        connection.sendall(b"all")
        print(taken, flush=True)


def send(host: str, num_bytes: int) -> None:
    """Send so many; print the seconds from before the first until the other has all."""
    begin = time.perf_counter()
    with socket.create_connection((host, PORT), timeout=2) as connection:
        connection.settimeout(None)
        connection.sendall(bytes(num_bytes))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(3, socket.MSG_WAITALL) == b"all"
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    if sys.argv[1] == "take":
        take()
    else:
        send(sys.argv[2], int(sys.argv[3]))
