"""Run and time a session: warm up until the times are stable, then turns of calls."""

from __future__ import annotations

import gc
import itertools
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lineside_runtime.benchmark.measurement.protocol import TurnTimed, WarmUpResult
from lineside_runtime.timing import time_calls

WARM_BLOCK_S = 0.05
WARM_BLOCK_CALLS = 3
WARM_BLOCKS = 3
WARM_TOLERANCE = 0.10
WARM_MAX_S = 10.0

WARM_RULE = (
    f"blocks of at least {WARM_BLOCK_S * 1e3:.0f} ms and {WARM_BLOCK_CALLS} calls are run until the medians of the "
    f"last {WARM_BLOCKS} are within {WARM_TOLERANCE:.0%}, for at most {WARM_MAX_S:.0f} s; each turn then begins with "
    "a call that isn't timed, because the caches hold the other's weights"
)


class TurnRunner:
    """Calls one function from one or several threads and times each call.

    Garbage isn't collected during a turn, as in the standard library's ``timeit``: a collection belongs to no call.
    """

    def __init__(self, call: Callable[[], object], streams: int, *, warm_max_s: float = WARM_MAX_S) -> None:
        self._call = call
        self._streams = streams
        self._warm_max_s = warm_max_s
        self._threads = ThreadPoolExecutor(streams, thread_name_prefix="caller") if streams > 1 else None

    def warm(self) -> WarmUpResult:
        """Runs until the time of a call is stable, or ``warm_max_s`` have passed."""
        medians: list[float] = []
        calls = 0
        block = WARM_BLOCK_CALLS * self._streams
        give_up_s = time.monotonic() + self._warm_max_s
        while True:
            timed = self.turn(block)
            calls += block + self._streams
            medians.append(statistics.median(timed.times_ms))
            last = medians[-WARM_BLOCKS:]
            if timed.wall_s >= WARM_BLOCK_S and len(last) == WARM_BLOCKS:
                if max(last) <= min(last) * (1 + WARM_TOLERANCE):
                    return WarmUpResult(calls=calls, stable=True, call_ms=medians[-1])
            elif timed.wall_s < WARM_BLOCK_S:
                block *= 2
                medians.clear()  # blocks of another length say nothing of these
            if time.monotonic() > give_up_s:
                return WarmUpResult(calls=calls, stable=False, call_ms=statistics.median(last))

    def turn(self, calls: int) -> TurnTimed:
        """Runs ``calls`` calls, shared among the callers, after one of each caller that isn't timed."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._alone(calls) if self._threads is None else self._together(calls, self._threads)
        finally:
            if collecting:
                gc.enable()

    def close(self) -> None:
        """Ends the callers."""
        if self._threads is not None:
            self._threads.shutdown()

    def _alone(self, calls: int) -> TurnTimed:
        self._call()
        cpu_s, began_ns = time.process_time(), time.perf_counter_ns()
        times_ms = time_calls(self._call, range(calls), untimed=0)
        return _timed(times_ms, (time.perf_counter_ns() - began_ns) / 1e9, time.process_time() - cpu_s)

    def _together(self, calls: int, threads: ThreadPoolExecutor) -> TurnTimed:
        begun: list[tuple[float, int]] = []
        start = threading.Barrier(
            self._streams, action=lambda: begun.append((time.process_time(), time.perf_counter_ns()))
        )
        numbers = itertools.count()

        def caller() -> list[float]:
            try:
                self._call()
                start.wait()
            except BaseException:  # whatever it was, an interrupt too: the others would wait for ever
                start.abort()
                raise
            mine = itertools.takewhile(lambda number: number < calls, numbers)
            return time_calls(self._call, mine, untimed=0)

        futures = [threads.submit(caller) for _ in range(self._streams)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in errors:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        ended_ns, cpu_s = time.perf_counter_ns(), time.process_time()
        times_ms = [one for future in futures for one in future.result()]
        return _timed(times_ms, (ended_ns - begun[0][1]) / 1e9, cpu_s - begun[0][0])


def _timed(times_ms: list[float], wall_s: float, cpu_s: float) -> TurnTimed:
    return TurnTimed(times_ms=times_ms, wall_s=wall_s, cpu_s=cpu_s, used_devices=(), rerouted=0)
