"""Order and rate of answers to devices. Pure.

Invariants:

- Devices take turns, so that one with many requests does not delay the others.
- A device gets no second turn before `FairQueue.sent`, so that its answers keep the order of its requests with any
  number of threads.
- No device exceeds its rate, and all together not the hub's.
- A repeated request of a device waits once, with the newest id: the older ones were sent on a broken connection.
- The number of waiting requests is bounded, for one device and for all.
"""

from __future__ import annotations

import collections

from lineside_link.messages import RepoRequest

WAITING_MAX = 20_000
"""Waiting requests of all devices; a device has up to 64 open."""

DEVICE_WAITING_MAX = 128

TURN_MAX = 8
"""Requests that are answered in one turn: half a megabyte of chunks, a millisecond."""


class Bucket:
    """A rate limit that allows a burst of a quarter of a second.

    Args:
        bytes_s: 0 for no limit.
    """

    BURST_S = 0.25

    def __init__(self, bytes_s: float) -> None:
        self._bytes_s = bytes_s
        self._free_at_s = 0.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._bytes_s > 0

    def ready_at(self, now_s: float) -> float:
        """Returns the time from which on something may be sent."""
        return max(now_s, self._free_at_s - self.BURST_S) if self._bytes_s else now_s

    def take(self, count: int, now_s: float) -> None:
        """Counts bytes that are sent now."""
        if self._bytes_s:
            self._free_at_s = max(self._free_at_s, now_s) + count / self._bytes_s


class FairQueue:
    """The waiting requests.

    Args:
        bytes_s: Rate to all devices together, in bytes a second; 0 for no limit.
        device_bytes_s: Rate to one device; 0 for no limit.
    """

    def __init__(self, *, bytes_s: float = 0.0, device_bytes_s: float = 0.0) -> None:
        self._hub = Bucket(bytes_s)
        self._device_bytes_s = device_bytes_s
        self._buckets: dict[str, Bucket] = {}
        self._waiting: collections.OrderedDict[str, collections.OrderedDict[tuple[object, ...], RepoRequest]]
        self._waiting = collections.OrderedDict()
        self._count = 0
        self._serving: set[str] = set()

    def __len__(self) -> int:
        return self._count

    @property
    def another(self) -> bool:
        """Whether another thread has work: a device waits that is not being answered."""
        return any(device not in self._serving for device in self._waiting)

    def offer(self, device: str, request: RepoRequest) -> bool:
        """Queues a request; false if too many wait."""
        mine = self._waiting.get(device)
        key = (request.kind, request.path, request.part, request.piece, request.base)
        if mine is not None and key in mine:
            mine[key] = request
            return True
        if self._count >= WAITING_MAX or (mine is not None and len(mine) >= DEVICE_WAITING_MAX):
            return False
        self._waiting.setdefault(device, collections.OrderedDict())[key] = request
        self._count += 1
        return True

    def take(self, now_s: float) -> tuple[str, list[RepoRequest]] | float | None:
        """Returns the next requests that may be answered now; `sent` must follow.

        Args:
            now_s: Any clock that does not go back.

        Returns:
            Device and requests, one at a time under a rate limit; or the seconds until there is one; or ``None`` if
            none waits.
        """
        soonest_s = None
        for device in self._waiting:
            if device in self._serving:
                continue
            mine = self._bucket(device)
            ready_at_s = max(self._hub.ready_at(now_s), mine.ready_at(now_s))
            if ready_at_s <= now_s:
                return device, self._pop(device, 1 if mine.limited or self._hub.limited else TURN_MAX)
            soonest_s = ready_at_s if soonest_s is None else min(soonest_s, ready_at_s)
        return None if soonest_s is None else soonest_s - now_s

    def _pop(self, device: str, most: int) -> list[RepoRequest]:
        mine = self._waiting[device]
        taken = [mine.popitem(last=False)[1] for _ in range(min(most, len(mine)))]
        self._count -= len(taken)
        self._serving.add(device)
        if mine:
            self._waiting.move_to_end(device)
        else:
            del self._waiting[device]
        return taken

    def sent(self, device: str, count: int, now_s: float) -> None:
        """Counts the bytes of a turn; the device may have its next turn.

        Args:
            count: Bytes.
            now_s: As for `take`.
        """
        self._serving.discard(device)
        self._hub.take(count, now_s)
        self._bucket(device).take(count, now_s)

    def sent_to_all(self, count: int, now_s: float) -> float:
        """Counts a multicast chunk; returns the seconds until the next may be sent."""
        self._hub.take(count, now_s)
        return self._hub.ready_at(now_s) - now_s

    def _bucket(self, device: str) -> Bucket:
        if not self._device_bytes_s:
            return _UNLIMITED
        if device not in self._buckets:
            self._buckets[device] = Bucket(self._device_bytes_s)
        return self._buckets[device]


_UNLIMITED = Bucket(0.0)
