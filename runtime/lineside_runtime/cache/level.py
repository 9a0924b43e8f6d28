"""Cache level in a store outside this process; it never delays a prediction.

Invariants:

- A failure of the store is a miss: it is logged, counted and never reaches the caller.
- A store that is down is not asked. A separate thread tries it again, after pauses that double.
- Results are written by that thread, from a queue with a bound on its bytes; what doesn't fit is dropped and counted.
- A value that is damaged, foreign or of another version is a miss.
"""

from __future__ import annotations

import abc
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import ClassVar, Literal

from lineside_runtime.cache.memory import Clock
from lineside_runtime.cache.stats import LevelStats
from lineside_runtime.cache.value import CachedResult, DamagedValueError, decode, encode
from lineside_runtime.errors import ConfigError
from lineside_runtime.serving.backoff import Backoff

QUEUE_BYTES = 16 << 20
"""Of results that wait to be written: a second's worth of the shipped detector's outputs."""

BATCH_BYTES = 4 << 20
OPEN_WAIT_S = 0.5
"""How long a new session waits for its stores; a slower one joins later."""

FLUSH_S = 2.0
"""How long closing waits for what is still to be written."""

TEND_S = 1.0
LOOKUP_WEIGHT = 0.05

log = logging.getLogger("lineside.cache")


class CacheStore(abc.ABC):
    """Something that keeps bytes by key outside this process.

    `read` is called by any thread, the others by the level's own thread only.

    Attributes:
        name: As in `LevelStats`.
        faults: What its methods raise when it fails.
        value_bytes_max: A larger value isn't given to it.
        evictions: Values that it gave up for room.
        expired: Values that it gave up for their age.
        report: Set by the level: logs and counts a failure that the store outlives.
        wake: Set by the level: has `tend` called soon.
    """

    name: ClassVar[Literal["sqlite", "redis"]]
    faults: tuple[type[Exception], ...]
    value_bytes_max: int
    evictions: int = 0
    expired: int = 0
    report: Callable[[Exception], None]
    wake: Callable[[], None]

    @abc.abstractmethod
    def open(self) -> None:
        """Makes it usable, also again after a failure."""

    @abc.abstractmethod
    def read(self, key: bytes) -> bytes | None:
        """Returns the value, or ``None``."""

    @abc.abstractmethod
    def write(self, values: Sequence[tuple[bytes, bytes]], used: Sequence[bytes]) -> int:
        """Keeps the values and notes that the ``used`` keys were read; returns how many values it couldn't keep."""

    @abc.abstractmethod
    def close(self) -> None:
        """Gives everything back; done twice it changes nothing."""

    @abc.abstractmethod
    def tend(self) -> None:
        """Called about once a second while it is up, and before each write."""

    def refuses_writes_only(self, error: Exception) -> bool:
        """Whether reading still works after this error of `write`, as on a full disk."""
        return False

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Entries and bytes in the store, if they are known."""
        return None, None


class Level:
    """A `CacheStore` with its queue, its thread and its counts."""

    def __init__(
        self,
        store: CacheStore,
        *,
        clock_s: Clock,
        queue_bytes: int = QUEUE_BYTES,
        pauses: Backoff | None = None,
        open_wait_s: float = OPEN_WAIT_S,
    ) -> None:
        """Starts the thread, and waits a moment for the store.

        Args:
            store: What it keeps results in.
            clock_s: Seconds of a clock that never goes back.
            queue_bytes: Bytes of results that may wait to be written.
            pauses: Before a store that failed is tried again.
            open_wait_s: How long the first opening is waited for.

        Raises:
            ConfigError: The store can't ever work as configured.
        """
        self.name = store.name
        self._store = store
        self._clock_s = clock_s
        self._queue_bytes = queue_bytes
        self._pauses = pauses or Backoff()
        self._changed = threading.Condition()
        self._queue: deque[tuple[bytes, CachedResult]] = deque()
        self._queued_bytes = 0
        self._used: set[bytes] = set()
        self._up = self._closing = self._woken = False
        self._tried = threading.Event()
        self._misconfigured: ConfigError | None = None
        self._failures = self._write_failures = 0
        self._up_since_s = self._write_again_s = 0.0
        self._hits = self._misses = self._stored = self._drops = self._errors = 0
        self._lookup_us = 0.0
        self._reason = ""
        store.report, store.wake = self._note, self._wake
        self._thread = threading.Thread(target=self._work, name=f"lineside-cache-{store.name}", daemon=True)
        self._thread.start()
        self._tried.wait(open_wait_s)
        if self._misconfigured is not None:
            self.close()
            raise self._misconfigured

    def get(self, key: bytes) -> CachedResult | None:
        """Returns the entry, or ``None``; never raises for the store."""
        if not self._up:
            with self._changed:
                self._misses += 1
            return None
        began_s = perf_counter()
        entry = self._read(key)
        took_us = (perf_counter() - began_s) * 1e6
        with self._changed:
            self._lookup_us += (took_us - self._lookup_us) * (LOOKUP_WEIGHT if self._lookup_us else 1.0)
            if entry is None:
                self._misses += 1
            else:
                self._hits += 1
                self._used.add(key)
        return entry

    def _read(self, key: bytes) -> CachedResult | None:
        try:
            value = self._store.read(key)
            return None if value is None else decode(key, value)
        except DamagedValueError as error:
            self._note(error)
        except self._store.faults as error:
            self._fail(error)
        return None

    def put(self, key: bytes, entry: CachedResult) -> None:
        """Queues the entry for being written; drops and counts it if the queue is full or the store is down."""
        with self._changed:
            fits = self._queued_bytes + entry.size_bytes <= self._queue_bytes
            if (
                self._closing
                or not (self._up and self._may_write)
                or not fits
                or entry.size_bytes > self._store.value_bytes_max
            ):
                self._drops += 1
                return
            self._queue.append((key, entry))
            self._queued_bytes += entry.size_bytes
            self._changed.notify_all()

    @property
    def _may_write(self) -> bool:
        return not self._write_failures or self._clock_s() >= self._write_again_s

    def flush(self, timeout_s: float) -> bool:
        """Waits until all that was put is written or dropped; says whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queued_bytes, timeout_s)

    def close(self) -> None:
        """Writes what is queued, for at most `FLUSH_S` seconds, and gives the store back."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(FLUSH_S)

    @property
    def stats(self) -> LevelStats:
        """What it has done."""
        entries, used_bytes = self._store.size
        with self._changed:
            return LevelStats(
                name=self.name,
                up=self._up,
                hits=self._hits,
                misses=self._misses,
                stored=self._stored,
                evictions=self._store.evictions,
                expired=self._store.expired,
                drops=self._drops,
                errors=self._errors,
                entries=entries,
                used_bytes=used_bytes,
                lookup_us=self._lookup_us or None,
                reason=self._reason,
            )

    # Its own thread.

    def _work(self) -> None:
        try:
            while not self._closing:
                if self._up:
                    self._serve()
                elif self._wait_for_pause():
                    self._open()
            if self._up:
                while self._queue:
                    self._write()
        finally:
            self._drop_queue()
            self._up = False
            self._store.close()

    def _open(self) -> None:
        faults: tuple[type[Exception], ...] = (ConfigError, *self._store.faults)
        try:
            self._store.open()
        except faults as error:
            if isinstance(error, ConfigError):
                self._misconfigured = error
            self._fail(error, opening=True)
        else:
            with self._changed:
                if self._failures:
                    log.warning("cache %s answers again", self.name)
                self._up, self._up_since_s = True, self._clock_s()
        finally:
            self._tried.set()

    def _serve(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._woken or self._closing or not self._up, TEND_S)
            self._woken = False
        if self._up and not self._closing:
            try:
                self._store.tend()
            except self._store.faults as error:
                self._fail(error)
        with self._changed:
            if not self._may_write:  # that something was read is no reason to try a full disk again
                self._used.clear()
        if self._up and (self._queue or self._used):
            self._write()

    def _write(self) -> None:
        batch, size = self._next_batch()
        with self._changed:
            used, self._used = self._used, set()
        try:
            refused = self._store.write([(key, encode(key, entry)) for key, entry in batch], list(used))
        except self._store.faults as error:
            refused = len(batch)
            if self._store.refuses_writes_only(error):
                self._pause_writes(error)
            else:
                self._fail(error)
        else:
            self._write_failures = 0
        with self._changed:
            self._drops += refused
            self._stored += len(batch) - refused
            self._queued_bytes -= size
            self._changed.notify_all()

    def _next_batch(self) -> tuple[list[tuple[bytes, CachedResult]], int]:
        batch: list[tuple[bytes, CachedResult]] = []
        size = 0
        with self._changed:
            while self._queue and size < BATCH_BYTES:
                batch.append(self._queue.popleft())
                size += batch[-1][1].size_bytes
        return batch, size

    def _wait_for_pause(self) -> bool:
        """Waits for the pause after the failures so far; returns false if the level is closing."""
        with self._changed:
            pause_s = self._pauses.after(self._failures) if self._failures else 0.0
            return not self._changed.wait_for(lambda: self._closing, pause_s)

    def _drop_queue(self) -> None:
        with self._changed:
            self._drops += len(self._queue)
            while self._queue:
                self._queued_bytes -= self._queue.popleft()[1].size_bytes
            self._changed.notify_all()

    # From any thread.

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def _note(self, error: Exception) -> None:
        """Logs and counts a failure that the store outlives."""
        log.warning("cache %s: %s", self.name, error)
        with self._changed:
            self._errors += 1
            self._reason = str(error)

    def _fail(self, error: Exception, *, opening: bool = False) -> None:
        self._note(error)
        with self._changed:
            if not self._up and not opening:
                return  # another call has met the same outage
            lasted_s = self._clock_s() - self._up_since_s
            if self._up and lasted_s > 2 * self._pauses.after(max(self._failures, 1)):
                self._failures = 0
            self._up = False
            self._failures += 1
            pause_s = self._pauses.after(self._failures)
            self._drop_queue()
        log.warning("cache %s is off and tried again in %.0f s", self.name, pause_s)

    def _pause_writes(self, error: Exception) -> None:
        self._note(error)
        with self._changed:
            self._write_failures += 1
            pause_s = self._pauses.after(self._write_failures)
            self._write_again_s = self._clock_s() + pause_s
            self._drop_queue()
        log.warning("cache %s takes no results for %.0f s", self.name, pause_s)
