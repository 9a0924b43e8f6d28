"""`Shared`: something that several threads use and that is closed after the last of them."""

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
    """Counts the users of a value.

    Written here because the standard library has no counted reference that closes at zero, and a garbage collector's
    finaliser would come at an unknown time.

    Entering and leaving takes no lock, as two of them on each call were a third of what a call costs. The users are
    counted by a list's length, whose ``append`` and ``pop`` are atomic. A user first counts himself and then looks
    whether the value is retired; who retires it first says so and then looks for users. So at least one of the two sees
    the other, and whoever finds it retired and without users closes it; a lock sees to it that only one does.

    `enter` and `leave` are written out on the way of a call, which is why their parts are public: each would be one
    more Python function, and a call has four of them.

    Attributes:
        value: What is shared.
        users: One item a user.
        retired: Whether nobody may enter any more.
    """

    __slots__ = ("_closed", "_closing", "retired", "users", "value")

    def __init__(self, value: T) -> None:
        self.value = value
        self.users: list[None] = []
        self.retired = False
        self._closed = False
        self._closing = threading.Lock()

    def enter(self) -> T:
        """Holds the value open until `leave`; in the hot path, where a context manager's generator costs 1 µs.

        Raises:
            Retired: `retire` was called before.
        """
        self.users.append(None)
        if self.retired:
            self.leave()
            raise Retired
        return self.value

    def leave(self) -> None:
        """Ends one `enter`; the last one closes a value that was retired meanwhile."""
        self.users.pop()
        if self.retired:
            self.close_if_unused()

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
        self.retired = True
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """Closes a value that was retired and has no user; who finds it closed does nothing.

        A value that can't be closed, such as a model on a device that is lost, is logged and let go all the same.
        """
        if self.users:
            return
        with self._closing:
            first, self._closed = not self._closed, True
        if not first:
            return
        try:
            self.value.close()
        except LinesideError as error:  # whoever leaves last has an answer to give, and perhaps more to close
            log.warning("closing: %s", error)
