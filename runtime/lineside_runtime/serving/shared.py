"""A counted reference: closes a value after the last of its users has left.

The standard library has none, and a garbage collector's finaliser would come at an unknown time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from lineside_runtime.errors import LinesideError
from lineside_runtime.logs import log


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Gives everything back."""


T = TypeVar("T", bound=Closable)


class Retired(Exception):  # noqa: N818  not an error: the caller takes the successor
    """The value was retired before it could be entered."""


class Shared(Generic[T]):
    """A value with several users that is closed once, when it is retired and the last user has left."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False
        self._closed = False

    def enter(self) -> T:
        """Holds the value open until `leave`.

        Raises:
            Retired: `retire` was called before.
        """
        with self._lock:
            if self._retired:
                raise Retired
            self._users += 1
        return self._value

    def leave(self) -> None:
        """Ends one `enter`."""
        with self._lock:
            self._users -= 1
            unused = self._retired and not self._users
        if unused:
            self._close_if_unused()

    @contextlib.contextmanager
    def use(self) -> Iterator[T]:
        """Holds the value open.

        Raises:
            Retired: `retire` was called before.
        """
        value = self.enter()
        try:
            yield value
        finally:
            self.leave()

    def retire(self) -> None:
        """Refuses new users, and closes the value now or when its last user leaves."""
        with self._lock:
            self._retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._lock:
            if not self._retired or self._users or self._closed:
                return
            self._closed = True
        try:
            self._value.close()
        except LinesideError as error:  # the last user has an answer to give, and perhaps more to close
            log.warning("closing: %s", error)
