"""Every host connects to every other. It runs on each of them, as ranks of one mpirun.

`python -c SOURCE SETTINGS`: it imports the standard library only. SETTINGS is JSON: `addresses`, a
list for each host; `port`, to which the host's number is added; `limit_seconds`. Each prints a line
of JSON: its number, and the numbers of the hosts that it did not reach, with the reasons.
"""

from __future__ import annotations  # hosts run it with any interpreter that they have

import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

MARK = "pcode-connectivity:"
# Enough for a first packet that is lost and comes again.
_TRY_SECONDS = 3.0
_PAUSE_SECONDS = 0.1
_TOGETHER = 64


def greet(address: str, port: int, own: int, other: int) -> None:
    """Connect and exchange numbers: the same address may be used on several hosts."""
    with socket.create_connection((address, port), _TRY_SECONDS) as connection:
        connection.sendall(f"{own}\n".encode())
        if connection.recv(16) != f"{other}\n".encode():
            raise OSError("another host answers")


def reach(addresses: list[str], port: int, own: int, other: int, deadline: float) -> str | None:
    """Connect to a host at one of its addresses, as soon as it listens; return why not, or None."""
    while True:
        reasons, refused = [], False
        for address in addresses:
            try:
                greet(address, port, own, other)
            except OSError as error:
                refused = refused or isinstance(error, ConnectionRefusedError)
                reasons.append(f"{address}: {error.strerror or error}")
            else:
                return None
        if not refused or time.monotonic() > deadline:  # refused: it may not listen yet
            return "; ".join(reasons) or "no IPv4 address of it is known"
        time.sleep(_PAUSE_SECONDS)


def answer(server: socket.socket, own: int, num_others: int, deadline: float) -> None:
    """Answer until all others have come or the time is up."""
    seen: set[bytes] = set()
    while len(seen) < num_others and (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(_TRY_SECONDS)
                seen.add(connection.recv(16))
                connection.sendall(f"{own}\n".encode())
        except OSError:  # the time is up, or the other is gone and reports why
            continue


def main() -> None:
    settings, own = json.loads(sys.argv[1]), int(os.environ["OMPI_COMM_WORLD_RANK"])
    addresses, port = settings["addresses"], settings["port"]
    deadline = time.monotonic() + settings["limit_seconds"]
    others = [other for other in range(len(addresses)) if other != own]
    server = socket.create_server(("0.0.0.0", port + own), backlog=len(others))
    answering = threading.Thread(target=answer, args=(server, own, len(others), deadline))
    answering.start()

    with ThreadPoolExecutor(_TOGETHER) as threads:
        asked = {
            other: threads.submit(reach, addresses[other], port + other, own, other, deadline)
            for other in others
        }
        failed = {other: reason for other, each in asked.items() if (reason := each.result())}
    # One write, so that no other host's comes in between.
    sys.stdout.write(f"{MARK}{json.dumps({'host': own, 'failed': failed})}\n")
    sys.stdout.flush()
    answering.join()


if __name__ == "__main__":
    main()
