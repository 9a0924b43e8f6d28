"""Stop on a signal without taking a lock in its handler.

A handler runs in the main thread between any two steps of what it was doing, also inside ``Event.wait`` while that
holds the lock that ``Event.set`` needs: an agent that was told to end then stood still for good. So the handler does
nothing: the interpreter writes its number into a pipe (`signal.set_wakeup_fd`), and a thread that reads it acts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[], None], *numbers: signal.Signals) -> Iterator[None]:
    """Calls ``stop`` in a thread of its own for each of these signals, until the end of the block.

    Only the main thread may do so, and one at a time.

    Args:
        stop: May take locks; called once a signal.
        numbers: SIGTERM and SIGINT if none are given.
    """
    wanted = numbers or (signal.SIGTERM, signal.SIGINT)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _nothing) for number in wanted}
    thread = threading.Thread(target=_listen, args=(reader, set(wanted), stop), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        thread.join()
        os.close(reader)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Does nothing: the signal's number is in the pipe."""


def _listen(reader: int, wanted: set[signal.Signals], stop: Callable[[], None]) -> None:
    while found := os.read(reader, 64):
        for number in found:
            if number in wanted:
                stop()
