"""What mpirun uses instead of ssh between the hosts: `agent.py HOST COMMAND...`.

Run as a script, on one of the hosts, with a file that says which process holds each host, and into
which file processes register that are limited there (see processor.py). Like ssh it first has to
reach the host over the network, gives up with status 255 and a line, and starts the command, put
together and read by a shell, in a fresh environment.
"""

import json
import os
import socket
import sys

PORT = 22
LIMIT_SECONDS = 10.0


def main() -> None:
    holders, host, *command = sys.argv[1:]
    try:
        socket.create_connection((host, PORT), LIMIT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or "Connection timed out"
        print(f"agent: connect to host {host} port {PORT}: {reason}", file=sys.stderr)
        sys.exit(255)
    with open(holders, encoding="utf-8") as file:
        process, entry = json.load(file)[host]
    if entry is not None:
        with open(entry, "w", encoding="utf-8") as file:
            file.write("0")
    os.execvpe(
        "nsenter",
        ["nsenter", "-t", str(process), "-n", "-u", "-m", "--", "sh", "-c", " ".join(command)],
        {"HOME": os.environ.get("HOME", "/"), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
    )


if __name__ == "__main__":
    main()
