"""Return freed memory to the system, and use less of it.

An engine frees a model's weights piece by piece, between pieces that stay, and glibc keeps such pages for later: after
some reloads a process held 94 MB where 81 were in use, and after hundreds 10 % more.

A device's own process can save memory (`save_memory`); a library in another program's process may not decide that.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

_M_ARENA_MAX = -8  # glibc's malloc.h

_saving = False


@functools.cache
def _trim() -> Callable[[int], int] | None:
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    return found


def give_back() -> None:
    """Returns the pages that hold nothing any more; takes 3 ms, so it is for when a model was compiled or unloaded."""
    trim = _trim()
    if trim is not None:
        trim(0)


def save_memory() -> None:
    """Makes this process use less memory; called by the owner of the process before it starts threads or loads a model.

    All threads allocate from one heap: a heap for each thread would keep what the thread freed. Engines that have a
    choice take less memory, see `saves_memory`.
    """
    global _saving
    _saving = True
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def saves_memory() -> bool:
    """Whether this process is to do with less memory."""
    return _saving
