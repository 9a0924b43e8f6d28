"""Keep what C code prints to stdout or stderr away from the terminal."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

STDOUT, STDERR = 1, 2

_lock = threading.Lock()


@contextlib.contextmanager
def redirected(descriptor: int, target: int) -> Iterator[None]:
    """Sends what this process writes to a file descriptor, C code and other threads included, to another one.

    Args:
        descriptor: `STDOUT` or `STDERR`.
    """
    with _lock:
        flush = ctypes.CDLL(None).fflush
        flush(None)
        kept = os.dup(descriptor)
        os.dup2(target, descriptor)
        try:
            yield
        finally:
            flush(None)
            os.dup2(kept, descriptor)
            os.close(kept)
