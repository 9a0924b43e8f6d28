"""`Turns`: what several threads finished in any order goes on in the order in which it began."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """Numbers from 1, each taken by one thread.

    `concurrent.futures` gives results in order only to a thread that waits for them; here whoever has a result tells it
    on itself, at once when it is its turn, and takes the next frame.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = 1
        self._ended = False

    def wait(self, turn: int) -> bool:
        """Waits until all before are through.

        Args:
            turn: Of the caller.

        Returns:
            False if one of them ended the order: what came behind it must not go on.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._next == turn)
            return not self._ended

    def end(self) -> None:
        """Ends the order: nobody's turn comes any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def kept(self, turn: int) -> Iterator[None]:
        """The block in which a turn is waited for and used; an error in it ends the order.

        Args:
            turn: Of the caller.
        """
        try:
            yield
        except BaseException:
            self.end()
            raise
        with self._changed:
            if self._next == turn:
                self._next += 1
                self._changed.notify_all()
