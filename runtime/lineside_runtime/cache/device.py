"""Cache level in the device's own memory, where an engine can keep results there (`Executable.keep`).

It is asked after host memory, since a copy back from the device takes longer. Its advantage is capacity: a graphics
card has gigabytes that nothing else on the box uses.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping

from lineside_runtime.backend import Fetch
from lineside_runtime.cache.memory import Clock, MemoryLevel
from lineside_runtime.cache.stats import LevelStats
from lineside_runtime.cache.value import CachedResult, keep
from lineside_runtime.errors import DeviceError
from lineside_runtime.tensors import Array

Keep = Callable[[Mapping[str, Array]], "Fetch | None"]

log = logging.getLogger("lineside.cache")


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    fetch: Fetch
    device: str
    size_bytes: int


class DeviceLevel:
    """Results on devices, least recently used first out. Any number of threads may use it."""

    def __init__(self, budget_bytes: int, *, ttl_s: float | None, clock_s: Clock) -> None:
        self._kept: MemoryLevel[_Kept] = MemoryLevel(budget_bytes, ttl_s=ttl_s, clock_s=clock_s, name="device")
        self._lock = threading.Lock()
        self._lost = self._errors = self._drops = 0
        self._reason = ""

    def get(self, key: bytes) -> CachedResult | None:
        """Copies the entry back; a device that fails loses all its entries."""
        found = self._kept.get(key)
        if found is None:
            return None
        try:
            return keep(found.fetch(), found.device)
        except DeviceError as error:
            self._fail(error)
            with self._lock:
                self._lost += 1
            self._kept.evict()
            return None

    def put(self, key: bytes, entry: CachedResult, keep_there: Keep) -> None:
        """Copies the entry to the device that computed it, if that has memory of its own."""
        try:
            fetch = keep_there(entry.outputs)
        except DeviceError as error:
            self._fail(error)
            self._kept.evict()
            fetch = None
        if fetch is not None:
            self._kept.put(key, _Kept(fetch, entry.device, entry.size_bytes))
            return
        with self._lock:
            self._drops += 1
            self._reason = self._reason or f"{entry.device} has no memory of its own"

    def evict(self) -> int:
        """Gives everything up and returns how many bytes that were."""
        return self._kept.evict()

    def _fail(self, error: DeviceError) -> None:
        log.warning("cache device: %s", error)
        with self._lock:
            self._errors += 1
            self._reason = str(error)

    @property
    def stats(self) -> LevelStats:
        """What it has done."""
        found = self._kept.stats
        with self._lock:
            return dataclasses.replace(
                found,
                hits=found.hits - self._lost,
                misses=found.misses + self._lost,
                drops=found.drops + self._drops,
                errors=self._errors,
                reason=self._reason,
            )
