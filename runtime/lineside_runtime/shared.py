"""`Shared`: something that several threads use and that is closed after the last of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Gives everything back."""


T = TypeVar("T", bound=Closable)


class Retired(Exception):  # noqa: N818  not an error: the caller takes the successor
    """The value was retired before it could be entered."""


class Shared(Generic[T]):
    """Counts the users of a value.

    Written here because the standard library has no counted reference that closes at zero, and a garbage collector's
    finaliser would come at an unknown time.
    """

    __slots__ = ("_lock", "_retired", "_users", "_value")

    def __init__(self, value: T) -> None:
        self._value = value
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False

    def enter(self) -> T:
        """Holds the value open until `leave`; in the hot path, where a context manager's generator costs 1 µs.

        Raises:
            Retired: `retire` was called before.
        """
        with self._lock:
            if self._retired:
                raise Retired
            self._users += 1
        return self._value

    def leave(self) -> None:
        """Ends one `enter`; the last one closes a value that was retired meanwhile."""
        with self._lock:
            self._users -= 1
            last = self._retired and self._users == 0
        if last:
            self._value.close()

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
        """Lets nobody in any more, and closes the value now or when its last user leaves."""
        with self._lock:
            closed_now = not self._retired and self._users == 0
            self._retired = True
        if closed_now:
            self._value.close()
