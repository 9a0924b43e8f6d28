"""Cache level in host memory: the last used results, up to a budget of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from lineside_runtime.cache.stats import LevelStats

Clock = Callable[[], float]


class Sized(Protocol):
    """What can be kept."""

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""


T = TypeVar("T", bound=Sized)


class MemoryLevel(Generic[T]):
    """Results by key, least recently used first out. Any number of threads may use it.

    Written here because `functools.lru_cache` counts entries and not bytes, and ``cachetools`` has no lock and nothing
    that has both a budget of bytes and an age.

    Attributes:
        budget_bytes: What all entries together may take.
    """

    def __init__(
        self, budget_bytes: int, *, ttl_s: float | None, clock_s: Clock, name: Literal["memory", "device"] = "memory"
    ) -> None:
        self.budget_bytes = budget_bytes
        self._ttl_s = ttl_s
        self._clock_s = clock_s
        self._name = name
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, tuple[T, float]] = OrderedDict()
        self._used_bytes = 0
        self._hits = self._misses = self._stored = self._evictions = self._expired = self._drops = 0

    def get(self, key: bytes) -> T | None:
        """Returns the entry and marks it as used."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
                return None
            if self._ttl_s is not None and self._clock_s() >= found[1]:
                self._remove(key)
                self._expired += 1
                self._misses += 1
                return None
            self._entries.move_to_end(key)
            self._hits += 1
            return found[0]

    def put(self, key: bytes, entry: T) -> None:
        """Stores the entry and evicts as many old ones as needed; one larger than the budget is not stored."""
        expires_s = 0.0 if self._ttl_s is None else self._clock_s() + self._ttl_s
        with self._lock:
            if key in self._entries:
                self._remove(key)
            if entry.size_bytes > self.budget_bytes:
                self._drops += 1
                return
            while self._used_bytes + entry.size_bytes > self.budget_bytes:
                self._remove(next(iter(self._entries)))
                self._evictions += 1
            self._entries[key] = entry, expires_s
            self._used_bytes += entry.size_bytes
            self._stored += 1

    def evict(self) -> int:
        """Removes everything and returns how many bytes that were."""
        with self._lock:
            freed = self._used_bytes
            self._evictions += len(self._entries)
            self._entries.clear()
            self._used_bytes = 0
            return freed

    def _remove(self, key: bytes) -> None:
        self._used_bytes -= self._entries.pop(key)[0].size_bytes

    @property
    def stats(self) -> LevelStats:
        """What it has done."""
        with self._lock:
            return LevelStats(
                name=self._name,
                hits=self._hits,
                misses=self._misses,
                stored=self._stored,
                evictions=self._evictions,
                expired=self._expired,
                drops=self._drops,
                entries=len(self._entries),
                used_bytes=self._used_bytes,
            )
