"""Close the ports that mpirun opens to the network, where no other machine takes part.

It listens on all interfaces for daemons of other hosts. None of its settings keeps it from that
(Open MPI 5.0), and eight bytes that a stranger sends and holds make it hang.
"""

import ctypes
import ipaddress
import os
import socket
import struct
import threading
import time
from contextlib import suppress

import psutil

_LOOK_SECONDS = 0.02
# Calls of Linux, on all architectures; Python's own pidfd_open is not in every build of it.
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
_SO_ATTACH_FILTER = 26
_DROP_ALL = struct.pack("HBBI", 6, 0, 0, 0)  # the program of one instruction: return 0


def close_ports_of(mpirun: int) -> None:
    """Close the ports of the mpirun with this process id, in a thread, until it starts its ranks.

    Where the kernel does not allow that they stay open.
    """
    threading.Thread(target=_watch, args=(mpirun,), daemon=True).start()


def _watch(mpirun: int) -> None:
    with suppress(psutil.Error, OSError):  # it has ended; not allowed
        process, has_started = psutil.Process(mpirun), False
        while not has_started:
            has_started = bool(process.children())  # it listens before that
            close_ports(process)
            time.sleep(_LOOK_SECONDS)


def close_ports(process: psutil.Process) -> None:
    """Let no packet reach the sockets on which a descendant of this process listens.

    But for those on loopback.

    Raises:
        OSError: the kernel has no such call, or does not let this process make it, as the default
            profile of Docker does not.
        psutil.Error: the process has ended.
    """
    program = ctypes.create_string_buffer(_DROP_ALL)
    filter_ = struct.pack("HP", 1, ctypes.addressof(program))
    for each in process.net_connections("tcp"):
        is_local = ipaddress.ip_address(each.laddr.ip).is_loopback
        if each.status == psutil.CONN_LISTEN and not is_local:
            with _socket_of(process.pid, each.fd) as listening:
                listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


def _socket_of(pid: int, number: int) -> socket.socket:
    """Return the socket that a process knows by that number."""
    process = _call(_PIDFD_OPEN, pid, 0)
    try:
        return socket.socket(fileno=_call(_PIDFD_GETFD, process, number, 0))
    finally:
        os.close(process)


def _call(number: int, *arguments: int) -> int:
    """Make a call of the kernel that returns a descriptor; raise OSError where it fails."""
    found: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found
