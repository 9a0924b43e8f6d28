"""A network namespace with loopback only: what is started in it reaches no other machine."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


@contextlib.contextmanager
def no_route() -> Iterator[str]:
    """Moves this thread, and the processes that it starts, into a network namespace without a route.

    Gives the reason why it can't; empty if it can. Needs root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET):
            yield f"a network namespace needs root: {os.strerror(ctypes.get_errno())}"
            return
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
            yield ""
        finally:
            if libc.setns(before, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "this thread can't go back to its network namespace")
    finally:
        os.close(before)
