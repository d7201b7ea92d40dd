"""The first process of a rehearsed container, before it becomes the container's own program.

Run as a script with one argument, JSON (see container.py), in new namespaces of processes and
mounts. It imports nothing of the package.
"""

import json
import os
import socket
import subprocess
import sys

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def main() -> None:
    told = json.loads(sys.argv[1])
    root = told["root"]
    if told["hostname"] is not None:
        socket.sethostname(told["hostname"])
    _mount("-t", "proc", "proc", f"{root}/proc")
    _mount("--rbind", "-o", "ro", "/sys", f"{root}/sys")
    _mount("-t", "tmpfs", "tmpfs", f"{root}/dev")
    for name in _DEVICES:
        _bind(f"/dev/{name}", f"{root}/dev/{name}", is_read_only=False)
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    os.mkdir(f"{root}/dev/shm")
    _mount("-t", "tmpfs", "tmpfs", f"{root}/dev/shm")
    for source, target, is_read_only in told["volumes"]:
        _bind(source, f"{root}{target}", is_read_only)
    if told["is_read_only"]:
        _mount("-o", "remount,bind,ro", root)
    os.chroot(root)
    os.chdir(told["work_dir"])
    os.umask(0o022)
    argv = told["argv"]
    if told["user"] is not None:
        user = [f"--reuid={told['user']}", f"--regid={told['user']}", "--clear-groups"]
        nothing = ["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        argv = ["/usr/bin/setpriv", *user, *nothing, "--", *argv]
    os.environ.clear()
    os.environ.update(told["variables"])
    os.execvp(argv[0], argv)


def _bind(source: str, target: str, is_read_only: bool) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()
    _mount("--bind", source, target)
    if is_read_only:
        _mount("-o", "remount,bind,ro", target)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
