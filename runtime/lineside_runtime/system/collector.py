"""Import modules without Python's garbage collector walking their objects again and again meanwhile."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Pauses the collector within the block, and then counts all objects among the old ones.

    What an import makes stays. Walking it takes a tenth of what a session adds to the start of a process, and a pause
    alone saves nothing: the first collection behind it walks all of it. `gc.freeze` and `gc.unfreeze` move all objects
    to the oldest generation without a look at them; full collections find them there as before. Nothing is done where
    the program has turned the collector off, and objects that it has frozen stay frozen. The pause is a threshold of 0,
    so that a collector that another thread turns off meanwhile stays off.
    """
    found = gc.get_threshold()
    if not (gc.isenabled() and found[0]):
        yield
        return
    gc.set_threshold(0)
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        if gc.get_threshold()[0] == 0:
            gc.set_threshold(*found)
