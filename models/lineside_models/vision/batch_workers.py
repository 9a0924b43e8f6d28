"""Inspect several batches at once, one for each core, results in order.

Reading a file, resizing and the engines all release the interpreter's lock, so that threads are enough. A core that
runs a batch alone does more in a second than cores that share one: where an engine's call may use several cores, a
second session is opened for this, whose calls use one.
"""

from __future__ import annotations

import collections
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from lineside_models.inspector import Inspector
from lineside_runtime.session import Session

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")

_PARALLEL = "ort/cpu"
"""Its calls run beside each other without waiting; other engines queue them, or share their threads anyway."""


class BatchWorkers(Generic[T, R]):
    """Runs batches on all cores."""

    def __init__(
        self, inspector: Inspector, inspector_on: Callable[[Session], Inspector], judge: Callable[[Inspector, T], R]
    ) -> None:
        """Takes what judges.

        Args:
            inspector: Stays the caller's.
            inspector_on: Makes another like it on another session.
            judge: Reads a batch and judges it with an inspector; called from several threads.
        """
        self._inspector = inspector
        self._inspector_on = inspector_on
        self._judge = judge
        self._opening = threading.Lock()
        self._single: Inspector | None = None
        threads = inspector.session.config.threads or 1
        self.workers = max(1, _cores(inspector.session) // threads)

    def run(self, batches: Iterator[T], *, ahead: int) -> Iterator[R]:
        """Yields the results of the batches, in their order.

        Args:
            batches: Taken when there is room; endless ones are welcome.
            ahead: At most so many for each worker are taken and not yet yielded.

        Raises:
            LinesideError: Of a batch, when it is its turn; what comes after it is not begun any more.
        """
        first, second = next(batches, None), next(batches, None)
        if first is None:
            return
        if second is None or self.workers == 1:
            yield self._judge(self._inspector, first)
            for batch in () if second is None else itertools.chain((second,), batches):
                yield self._judge(self._inspector, batch)
            return
        self._open_single()
        yield from self._side_by_side((first, second), batches, self.workers * ahead)

    def close(self) -> None:
        """Closes its own session; idempotent."""
        if self._single is not None:
            self._single.session.close()
            self._single = None

    def _side_by_side(self, begun: tuple[T, ...], batches: Iterator[T], most: int) -> Iterator[R]:
        from concurrent.futures import ThreadPoolExecutor  # with logging: one batch alone needs neither

        waiting: collections.deque[Future[R]] = collections.deque()
        ended: Exception | None = None
        with ThreadPoolExecutor(self.workers, thread_name_prefix="lineside-inspect") as pool:
            try:
                waiting.extend(pool.submit(self._work, batch) for batch in begun)
                while ended is None:
                    try:
                        waiting.append(pool.submit(self._work, next(batches)))
                    except StopIteration:
                        break
                    except Exception as error:  # noqa: BLE001  whoever gives the images; raised in its turn
                        ended = error
                    while len(waiting) >= most or (waiting and waiting[0].done()):
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
        if ended is not None:
            raise ended

    def _work(self, batch: T) -> R:
        single, main = self._single, self._inspector.session
        if (
            single is None
            or single.session.bundle.digest != main.bundle.digest
            or single.session.variant != main.variant
        ):
            return self._judge(self._inspector, batch)  # also where the session was reloaded meanwhile
        return self._judge(single, batch)

    def _open_single(self) -> None:
        """Opens the second session where it serves, or again where the first one was reloaded."""
        main = self._inspector.session
        config = main.config
        if config.threads is not None or config.cache is not None or not main.used_device.startswith(_PARALLEL):
            return
        with self._opening:
            if self._single is not None and self._single.session.bundle.digest == main.bundle.digest:
                return
            self.close()
            self._single = self._inspector_on(Session(main.bundle, msgspec.structs.replace(config, threads=1)))


def _cores(session: Session) -> int:
    """Returns how many cores this process may use."""
    if session.config.cores:
        return len(session.config.cores)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
