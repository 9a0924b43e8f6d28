"""Rows above the hub's watermark, and the window of them that is being sent: of records, and of interactions.

The broker's acknowledgement means nothing here: it is neither delivery nor durability. A row is delivered when the
hub's watermark has passed it. Without an answer in `ACK_TIMEOUT_S`, doubled each time up to `ACK_TIMEOUT_MAX_S` so that
a slow hub is not flooded with repeats, and after each reconnection, everything above the watermark is sent again. The
hub's key ``(device, epoch, seq)`` makes a repeat harmless. A hub that is behind requests a smaller window.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lineside_link.messages import MESSAGE_MAX_BYTES, InteractionRows, Results, ResultsAck, decode, encode
from lineside_runtime.errors import BrokerError, DatabaseError

log = logging.getLogger("lineside.outbox")

BATCH_ROWS = 50
WINDOW_ROWS = 200
ACK_TIMEOUT_S = 5.0
ACK_TIMEOUT_MAX_S = 60.0

SILENT_REPEATS = 3
"""So many repeats without an answer, 35 s, are a hub that is down; one that starts again needs a few seconds."""

_POLL_S = 0.5


class OutboxStore(Protocol):
    """Durable rows that are numbered from 1 without a gap; the oldest ones may be gone.

    Attributes:
        epoch: Random name of the database.
        last_seq: The highest number on disk.
        watermark: The highest number that the hub has confirmed.
    """

    @property
    def epoch(self) -> str: ...  # noqa: D102 - see above
    @property
    def last_seq(self) -> int: ...  # noqa: D102
    @property
    def watermark(self) -> int: ...  # noqa: D102

    def rows(self, after: int, limit: int) -> Sequence[Any]:
        """Reads at most ``limit`` rows above ``after``, in order of ``seq``."""

    def acknowledge(self, epoch: str, seq: int) -> None:
        """Takes the hub's watermark; it may be lower than before."""

    def wait_change(self, seen: int, timeout_s: float) -> int:
        """Waits for a commit after ``seen`` (0 at first); returns the value for the next call."""


class Outbox:
    """Sends rows in a thread of its own.

    Args:
        publish: Sends a message; false without a connection.
        first_window: Rows that may be unacknowledged on a new connection until the hub has answered: few where an older
            hub would never answer.
        may_send: Whether the link is free for these rows.

    Attributes:
        resent: How often everything above the watermark was sent again.
    """

    def __init__(
        self,
        store: OutboxStore,
        publish: Callable[[bytes], bool],
        stop: threading.Event,
        *,
        message: type[Results] | type[InteractionRows] = Results,
        first_window: int = WINDOW_ROWS,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self.resent = 0
        self._message: Callable[..., Results | InteractionRows] = message
        self._first_window = first_window
        self._may_send = may_send
        self._store = store
        self._publish = publish
        self._stop = stop
        self._resend = threading.Event()
        self._sent = 0
        self._progress_at_s = 0.0
        self._window = first_window
        self._timeout_s = ACK_TIMEOUT_S
        self._repeats = 0

    def connected(self) -> None:
        """Takes a new connection: what was under way may be lost."""
        self._timeout_s = ACK_TIMEOUT_S
        self._repeats = 0
        self._window = min(self._window, self._first_window)
        self._resend.set()

    @property
    def problem(self) -> BrokerError | None:
        """Why the hub stores nothing although the broker takes it; ``None`` while it answers."""
        if self._repeats < SILENT_REPEATS:
            return None
        return BrokerError("the hub does not answer", action="See that it runs: lineside hub status.")

    @property
    def idle(self) -> bool:
        """Whether every row is under way or at the hub."""
        return self._sent >= self._store.last_seq

    def acknowledged(self, _topic: str, payload: bytes) -> None:
        """Takes the hub's answer."""
        ack = decode(payload, ResultsAck)
        # A window below one row would be the end of all sending.
        self._window = min(WINDOW_ROWS, max(1, ack.window)) if ack.window else WINDOW_ROWS
        self._store.acknowledge(ack.epoch, ack.seq)

    def run(self) -> None:
        """Runs in the caller's thread until stopped."""
        seen, watermark, epoch = 0, self._store.watermark, self._store.epoch
        self._sent, self._progress_at_s = watermark, time.monotonic()
        while not self._stop.is_set():
            current = (self._store.watermark, self._store.epoch)
            if current != (watermark, epoch):
                # Lower than before: the hub was restored from a backup, or the database is a new one.
                if current[0] < watermark or current[1] != epoch:
                    self._sent = current[0]
                (watermark, epoch), self._progress_at_s = current, time.monotonic()
                self._timeout_s = ACK_TIMEOUT_S
                self._repeats = 0
            self._rewind(watermark)
            if not self._send(watermark):
                seen = self._store.wait_change(seen, _POLL_S)

    def _rewind(self, watermark: int) -> None:
        late = self._sent > watermark and time.monotonic() - self._progress_at_s > self._timeout_s
        if late:
            self.resent += 1
            self._repeats += 1
            level = logging.WARNING if self._timeout_s < ACK_TIMEOUT_MAX_S else logging.DEBUG  # not each minute
            log.log(level, "no answer for rows %d to %d; they are sent again", watermark + 1, self._sent)
            self._timeout_s = min(2 * self._timeout_s, ACK_TIMEOUT_MAX_S)
        if late or self._resend.is_set():
            self._resend.clear()
            self._sent, self._progress_at_s = watermark, time.monotonic()
        self._sent = max(self._sent, watermark)

    def _send(self, watermark: int) -> bool:
        """Sends a batch; false if there is none, the window is full or the link is down."""
        room = self._window - (self._sent - watermark)
        if room <= 0 or not self._may_send():
            return False
        # Read before the rows: a row that is committed in between must not look like a missing one.
        epoch, last = self._store.epoch, self._store.last_seq
        try:
            rows = self._store.rows(self._sent, min(BATCH_ROWS, room))
        except DatabaseError as error:
            log.error("%s", error)
            return False
        # All rows that are left above the sent ones: a hub that was restored from a backup sees which are gone.
        through = rows[-1].seq if rows else min(last, self._sent + room)
        if through <= self._sent or epoch != self._store.epoch:
            return False
        message = encode(self._message(epoch=epoch, rows=tuple(rows), after=self._sent, through=through))
        while len(message) > MESSAGE_MAX_BYTES and len(rows) > 1:
            rows = rows[: len(rows) // 2]
            through = rows[-1].seq
            message = encode(self._message(epoch=epoch, rows=tuple(rows), after=self._sent, through=through))
        if not self._publish(message):
            return False
        if self._sent == watermark:
            self._progress_at_s = time.monotonic()
        self._sent = through
        return True
