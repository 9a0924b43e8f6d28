"""The result cache of a session: its levels in the order in which they are asked.

Invariants:

- Exact only: an answer comes from here only for bit for bit the same inputs, of the same bundle, variant and engine.
- A level that fails is passed over; the device answers then, as if there were no cache.
- What is kept can't be changed: results are copied when they are taken, and given out read-only.
- An input that changes while it is computed isn't kept.

Host memory is asked before the device's: it answers in a microsecond, and a copy from the device takes longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lineside_runtime.cache.config import VALUE_BYTES_MAX, CacheConfig
from lineside_runtime.cache.device import DeviceLevel, Keep
from lineside_runtime.cache.level import Level
from lineside_runtime.cache.memory import MemoryLevel
from lineside_runtime.cache.stats import CacheStats, LevelName
from lineside_runtime.cache.value import CachedResult, data_bytes, keep
from lineside_runtime.errors import MissingExtraError
from lineside_runtime.serving.memory_pressure import on_memory_pressure
from lineside_runtime.tensors import Array


class ResultCache:
    """All levels of one session. Any number of threads may use it."""

    def __init__(self, config: CacheConfig) -> None:
        """Opens the levels; one that isn't there yet joins later.

        Raises:
            ConfigError: A level can't ever work as configured.
            MissingExtraError: Redis is asked for and its client isn't installed.
        """
        self._memory = _memory(config)
        self._device = _device(config)
        self._shared: list[Level] = []
        self._unregister = on_memory_pressure(self.evict)
        try:
            if config.sqlite is not None:
                self._shared.append(_sqlite(config, config.sqlite))
            if config.redis:
                self._shared.append(_redis(config))
        except BaseException:
            self.close()
            raise
        self._lock = threading.Lock()
        self._hits = self._misses = self._not_kept = self._unstable = 0

    def get(self, keys: Sequence[bytes]) -> tuple[CachedResult, LevelName] | None:
        """Returns the entry of the first key that a level has, and the level's name.

        Levels before that one have the entry from now on as well. Every level is asked for a key before the next key.
        """
        for key in keys:
            found = self._find(key)
            if found is not None:
                with self._lock:
                    self._hits += 1
                return found
        with self._lock:
            self._misses += 1
        return None

    def _find(self, key: bytes) -> tuple[CachedResult, LevelName] | None:
        if self._memory is not None:
            entry = self._memory.get(key)
            if entry is not None:
                return entry, "memory"
        if self._device is not None:
            entry = self._device.get(key)
            if entry is not None:
                self._take(key, entry, [])
                return entry, "device"
        for number, level in enumerate(self._shared):
            entry = level.get(key)
            if entry is not None:
                self._take(key, entry, self._shared[:number])
                return entry, level.name
        return None

    def put(self, key: bytes, outputs: Mapping[str, Array], device: str, *, keep_there: Keep | None = None) -> None:
        """Keeps a copy of the outputs.

        Args:
            key: 32 bytes: `key.namespace` and `key.inputs_digest`.
            outputs: Array by output name.
            device: Engine and device that computed them.
            keep_there: Copies outputs into that device's memory; see `Executable.keep`.
        """
        size = data_bytes(outputs)
        if size is None or size > VALUE_BYTES_MAX:
            self.note_not_kept()
            return
        entry = keep(outputs, device)
        self._take(key, entry, self._shared)
        if self._device is not None and keep_there is not None:
            self._device.put(key, entry, keep_there)

    def note_not_kept(self) -> None:
        """Counts a call whose input or result is of a kind or size that isn't kept."""
        with self._lock:
            self._not_kept += 1

    def note_unstable(self) -> None:
        """Counts a result that wasn't kept because its input had changed meanwhile."""
        with self._lock:
            self._unstable += 1

    def _take(self, key: bytes, entry: CachedResult, shared: list[Level]) -> None:
        if self._memory is not None:
            self._memory.put(key, entry)
        for level in shared:
            level.put(key, entry)

    def evict(self) -> int:
        """Frees the levels in this process's memory and on the device; returns the freed bytes."""
        return sum(level.evict() for level in (self._memory, self._device) if level is not None)

    def flush(self, timeout_s: float) -> bool:
        """Waits until the shared levels have written what they were given; says whether that came in time."""
        ends_s = time.monotonic() + timeout_s
        return all(level.flush(max(0.0, ends_s - time.monotonic())) for level in self._shared)

    def close(self) -> None:
        """Writes the queue and closes all levels; a second call does nothing."""
        self._unregister()
        for level in self._shared:
            level.close()
        self.evict()

    @property
    def stats(self) -> CacheStats:
        """What it has done."""
        levels = [level.stats for level in (self._memory, self._device, *self._shared) if level is not None]
        with self._lock:
            return CacheStats(self._hits, self._misses, self._not_kept, self._unstable, tuple(levels))


def _memory(config: CacheConfig) -> MemoryLevel[CachedResult] | None:
    if not config.memory_bytes:
        return None
    return MemoryLevel(config.memory_bytes, ttl_s=config.ttl_s, clock_s=time.monotonic)


def _device(config: CacheConfig) -> DeviceLevel | None:
    if not config.device_bytes:
        return None
    return DeviceLevel(config.device_bytes, ttl_s=config.ttl_s, clock_s=time.monotonic)


def _sqlite(config: CacheConfig, path: Path) -> Level:
    from lineside_runtime.cache.sqlite import SqliteStore  # imported only where it is used

    return Level(SqliteStore(path, config.sqlite_bytes, ttl_s=config.ttl_s), clock_s=time.monotonic)


def _redis(config: CacheConfig) -> Level:
    try:
        from lineside_runtime.cache.redis_ import RedisStore
    except ImportError as error:
        raise MissingExtraError(
            f"the shared cache needs the Redis client: {error}", action="pip install 'lineside[redis]'."
        ) from error
    store = RedisStore(config.redis, timeout_s=config.redis_timeout_s, ttl_s=config.ttl_s)
    return Level(store, clock_s=time.monotonic)
