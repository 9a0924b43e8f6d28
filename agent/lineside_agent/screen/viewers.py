"""`Viewers`: the event streams of the pages."""

from __future__ import annotations

import asyncio


class Viewers:
    """The event streams of the pages; each is told that something is new, and takes the newest."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: set[asyncio.Event] = set()
        self._due = False

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._events)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sets the loop of the streams."""
        self._loop = loop

    def add(self) -> asyncio.Event:
        """Returns the event of a new stream; in the loop's thread."""
        event = asyncio.Event()
        event.set()
        self._events.add(event)
        return event

    def remove(self, event: asyncio.Event) -> None:
        """Ends a stream."""
        self._events.discard(event)

    def notify(self) -> None:
        """Tells all streams; from any thread."""
        if self._events and self._loop is not None and not self._due:
            self._due = True
            try:
                self._loop.call_soon_threadsafe(self._set)
            except RuntimeError:  # the loop is closed
                self._due = False

    def _set(self) -> None:
        self._due = False
        for event in self._events:
            event.set()
