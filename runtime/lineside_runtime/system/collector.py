"""Pause Python's cyclic garbage collector while what is made stays."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Pauses the collector within the block; does nothing where it is off already.

    Imports make some ten thousand objects that all stay, and the collector walks them again and again meanwhile: a
    twelfth of what a session adds to the start of a process.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
