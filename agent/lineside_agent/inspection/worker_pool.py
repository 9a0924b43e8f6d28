"""A pool of threads that work on the pieces of one job.

``ThreadPoolExecutor`` waits at the process's end for a thread that hangs in an engine, and ``ThreadPool`` of
multiprocessing looks ten times a second whether its threads live.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class WorkerPool:
    """Threads that share the pieces of a job; started with the first job, and used from any thread.

    Args:
        size: Number of threads. With one the caller works alone.
    """

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self._name = name
        self._lock = threading.Lock()
        self._started = False
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def map(self, work: Callable[[T], R], pieces: Sequence[T]) -> list[R]:
        """Returns the results of ``work`` for all pieces, in their order, when all have ended."""
        if self.size == 1 or len(pieces) == 1:
            return [work(piece) for piece in pieces]
        self._start()
        futures = [self._submit(work, piece) for piece in pieces]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Ends the threads after the work that they were given, without waiting for them."""
        with self._lock:
            if self._started:
                self._started = False
                for _ in range(self.size):
                    self._queue.put(None)

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
            for _ in range(self.size):
                threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _submit(self, work: Callable[[T], R], piece: T) -> Future[R]:
        future: Future[R] = Future()

        def run() -> None:
            try:
                result = work(piece)
            except BaseException as error:  # noqa: BLE001  the caller's
                future.set_exception(error)
            else:
                future.set_result(result)

        self._queue.put(run)
        return future

    def _run(self) -> None:
        while (piece := self._queue.get()) is not None:
            piece()
            del piece
