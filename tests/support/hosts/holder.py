"""What keeps one host there: a process in namespaces of its own, until its standard input ends.

Then it kills all that runs there, whoever started it, and ends: also where its maker was killed.
Run as a script, `unshare --net --uts --mount python -I -S holder.py NAME ETC_HOSTS`. It imports
nothing of the package. It writes a line when the host can be entered. From then on whoever wants
to reach the host can connect to its port 22, as to an SSH server's: nothing is said there (see
agent.py).
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time

PORT = 22


def end_others() -> None:
    """Kill every other process of this network."""
    network = os.readlink("/proc/self/ns/net")
    while True:
        left = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if name.isdecimal() and os.readlink(f"/proc/{name}/ns/net") == network:
                    left.append(int(name))
        left.remove(os.getpid())
        if not left:
            return
        for process in left:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(process, signal.SIGKILL)
        time.sleep(0.002)  # no event tells when another's child is gone


def main() -> None:
    name, etc_hosts = sys.argv[1:]
    socket.sethostname(name)
    for command in (
        ["mount", "--bind", etc_hosts, "/etc/hosts"],
        # Of the host's own network; and shared memory, as files, is no other machine's.
        ["mount", "-t", "sysfs", "sysfs", "/sys"],
        ["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"],
        ["ip", "link", "set", "lo", "up"],
    ):
        subprocess.run(command, check=True)
    with socket.create_server(("0.0.0.0", PORT)) as server:
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in ready:  # nobody writes to it: its other end is gone
                end_others()
                return
            server.accept()[0].close()


if __name__ == "__main__":
    main()
