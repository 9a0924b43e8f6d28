"""Open requests, and those that must be repeated. Pure.

Invariants:

- At most ``window`` pieces are requested at a time.
- Each piece is delivered once, however often it was requested and answered.
- An answer is accepted under any id of its piece, so a late answer to a repeated request is used.
- A request is lost when a later one has been answered and its own time is up (broker and hub answer in order), or when
  nothing has arrived for its time. On a slow link with late but steady answers nothing is requested twice.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Literal, NamedTuple

from lineside_runtime.bundle import CHUNK_BYTES

RequestKind = Literal["metadata", "target", "chunk", "deltas", "multicast"]

TIMEOUT_GROWTH = 1.5
TIMEOUT_MAX_S = 30.0

BUSY_PAUSE_S = 0.2
"""First pause after the answer "busy"; doubles up to `BUSY_PAUSE_MAX_S`."""

BUSY_PAUSE_MAX_S = 5.0


class FetchStopped(Exception):  # noqa: N818 - not an error: the caller wanted it
    """``should_stop`` returned true; the received data is kept, and the next call continues."""


class RequestedPiece(NamedTuple):
    """A requested piece, as in `lineside_link.messages.RepoRequest`."""

    kind: RequestKind
    path: str
    part: int = 0
    size: int = CHUNK_BYTES
    base: str = ""
    damaged: bool = False


@dataclasses.dataclass(slots=True)
class _Pending:
    piece: RequestedPiece
    timeout_s: float
    number: int
    ids: list[str] = dataclasses.field(default_factory=list)
    asked_at_s: float = 0.0
    order: int = 0
    send_at_s: float | None = 0.0
    busy: int = 0


class PullWindow:
    """The requests of one pull.

    Attributes:
        wanted: Pieces that were not requested yet; may be appended to at any time.
        busy: Number of answers "busy".
        window: Number of pieces that may be requested at a time; may be changed at any time.
        batch: New pieces are requested when so many fit into the window, so that requests share a message.

    Args:
        wanted: Pieces, in this order.
        window: How many pieces may be on their way.
        timeout_s: Time without an answer before a request is repeated; grows with each repetition.
        prefix: Prefix of the request ids; unique to this pull.
    """

    def __init__(self, wanted: Iterable[RequestedPiece], *, window: int, timeout_s: float, prefix: str) -> None:
        self.wanted = collections.deque(wanted)
        self.repeated = 0
        self.busy = 0
        self.window = window
        self.batch = 1
        self._timeout_s = timeout_s
        self._prefix = prefix
        self._asked = 0
        self._pending: dict[int, _Pending] = {}
        self._opened = 0
        self._quiet_until_s = 0.0
        self._by_id: dict[str, _Pending] = {}
        self._last_arrival_s = 0.0
        self._newest_answered = 0

    @property
    def done(self) -> bool:
        """Whether all pieces were delivered."""
        return not self.wanted and not self._pending

    @property
    def in_flight(self) -> int:
        """Number of open requests."""
        return len(self._pending)

    def due(self, now_s: float) -> list[tuple[str, RequestedPiece]]:
        """Returns the requests to send now, with their new ids; they are regarded as sent.

        Args:
            now_s: Of a monotonic clock.
        """
        room = self.window - len(self._pending)
        fresh = min(room, len(self.wanted)) if room >= min(self.batch, len(self.wanted)) else 0
        if fresh <= 0 and now_s < self._quiet_until_s:
            return []
        for pending in self._pending.values():
            if self._is_lost(pending, now_s):
                pending.timeout_s = min(pending.timeout_s * TIMEOUT_GROWTH, TIMEOUT_MAX_S)
                pending.send_at_s = now_s
        for _ in range(fresh):
            self._opened += 1
            self._pending[self._opened] = _Pending(
                self.wanted.popleft(), self._timeout_s, number=self._opened, send_at_s=now_s
            )
        ready = [item for item in self._pending.values() if item.send_at_s is not None and item.send_at_s <= now_s]
        asked = [self._ask(item, now_s) for item in ready]
        self._quiet_until_s = min((_look_at_s(item) for item in self._pending.values()), default=now_s)
        return asked

    def _is_lost(self, pending: _Pending, now_s: float) -> bool:
        if pending.send_at_s is not None:
            return False
        if now_s - pending.asked_at_s <= pending.timeout_s:
            return False
        overtaken = self._newest_answered > pending.order
        return overtaken or now_s - max(pending.asked_at_s, self._last_arrival_s) > pending.timeout_s

    def _ask(self, pending: _Pending, now_s: float) -> tuple[str, RequestedPiece]:
        self._asked += 1
        self.repeated += bool(pending.ids)
        request_id = f"{self._prefix}-{self._asked}"
        pending.ids.append(request_id)
        pending.asked_at_s, pending.order, pending.send_at_s = now_s, self._asked, None
        self._by_id[request_id] = pending
        return request_id, pending.piece

    def next_due_s(self, now_s: float) -> float:
        """Returns the seconds until the next request is due, if nothing arrives."""
        soonest_s = min((_look_at_s(item) for item in self._pending.values()), default=now_s)
        return max(0.0, soonest_s - now_s)

    def ask_all_again(self, now_s: float) -> None:
        """Repeats all open requests: the connection broke, and answers on it are lost.

        Args:
            now_s: As for `due`.
        """
        for pending in self._pending.values():
            pending.send_at_s = now_s
        self._quiet_until_s = now_s

    def answered(self, request_id: str, now_s: float) -> RequestedPiece | None:
        """Notes an answer and returns its piece; ``None`` if it was answered before or never requested.

        Args:
            now_s: As for `due`.
        """
        pending = self._by_id.get(request_id)
        if pending is None:
            return None
        del self._pending[pending.number]
        for known in pending.ids:
            del self._by_id[known]
        self._last_arrival_s = now_s
        self._newest_answered = max(self._newest_answered, pending.order)
        return pending.piece

    def refused_busy(self, request_id: str, now_s: float) -> None:
        """Notes the answer "busy"; the request is repeated after a growing pause.

        Args:
            now_s: As for `due`.
        """
        pending = self._by_id.get(request_id)
        if pending is None or pending.send_at_s is not None:
            return
        self.busy += 1
        pending.send_at_s = now_s + min(BUSY_PAUSE_S * 2**pending.busy, BUSY_PAUSE_MAX_S)
        pending.busy += 1
        self._quiet_until_s = min(self._quiet_until_s, pending.send_at_s)


def _look_at_s(pending: _Pending) -> float:
    """Returns the earliest time at which a request may be due."""
    return pending.send_at_s if pending.send_at_s is not None else pending.asked_at_s + pending.timeout_s
