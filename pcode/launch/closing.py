"""Close the ports that mpirun opens to the network, where no other machine takes part.

It listens on all interfaces for daemons of other hosts. None of its settings keeps it from that
(Open MPI 5.0), and eight bytes that a stranger sends and holds make it hang.
"""

import ctypes
import ipaddress
import os
import socket
import struct

import psutil

_PIDFD_GETFD = 438  # of Linux, on all architectures
_SO_ATTACH_FILTER = 26
_DROP_ALL = struct.pack("HBBI", 6, 0, 0, 0)  # the program of one instruction: return 0


def close_ports(process: psutil.Process) -> None:
    """Let no packet reach what a descendant of this process listens on, but on loopback.

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
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.pidfd_open(pid)
    try:
        own = libc.syscall(_PIDFD_GETFD, handle, number, 0)
    finally:
        os.close(handle)
    if own < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return socket.socket(fileno=own)
