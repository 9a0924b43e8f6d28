"""Give frames to a session as they arrive on a line, and time the answers.

Latency counts from when a frame is due. A generator that waits for answers would hide the time that frames wait.
"""

from __future__ import annotations

import itertools
import random
import statistics
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from time import perf_counter

import msgspec

from lineside_runtime.serving.types import Prediction
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

Feed = Mapping[str, Array]


class ServedRound(msgspec.Struct, frozen=True):
    """What a round of frames took.

    Attributes:
        elapsed_s: From the first frame to the last answer.
    """

    latencies_ms: list[float]
    elapsed_s: float

    @property
    def mean_ms(self) -> float:
        """Mean latency."""
        return statistics.fmean(self.latencies_ms)

    @property
    def frame_ms(self) -> float:
        """Time a frame."""
        return self.elapsed_s * 1e3 / len(self.latencies_ms)


def one_at_a_time(session: Session, feeds: Sequence[Feed], frames: int) -> ServedRound:
    """Gives a frame when the one before is answered."""
    latencies: list[float] = []
    began_s = perf_counter()
    for number in range(frames):
        due_s = perf_counter()
        session.submit(feeds[number % len(feeds)]).result()
        latencies.append((perf_counter() - due_s) * 1e3)
    return ServedRound(latencies, perf_counter() - began_s)


def at_rate(session: Session, feeds: Sequence[Feed], frames: int, rate_hz: float, *, seed: int) -> ServedRound:
    """Gives frames at random times, whether or not the one before is answered.

    Args:
        rate_hz: Frames a second on average; the times between two are exponential.
        seed: The same seed gives the same times.
    """
    chance, pause, answers = random.Random(seed), threading.Event(), _Answers()
    began_s = due_s = perf_counter()
    for number in range(frames):
        due_s += chance.expovariate(rate_hz)
        while (left_s := due_s - perf_counter()) > 0:
            pause.wait(left_s)
        answers.expect(session.submit(feeds[number % len(feeds)]), due_s)
    return ServedRound(answers.latencies_ms(), perf_counter() - began_s)


def queued(calls_ms: Sequence[float], frames: int, rate_hz: float, *, seed: int) -> ServedRound:
    """Computes what `at_rate` measures of a way that runs one call after the other.

    Each frame waits until the one before is answered (Lindley's recursion).

    Args:
        calls_ms: Times of calls, which are used again from the first one on where there are more frames.
        rate_hz: As for `at_rate`.
        seed: The same seed gives the same times as there.
    """
    chance, latencies, due_ms, answered_ms = random.Random(seed), list[float](), 0.0, 0.0
    for call_ms in itertools.islice(itertools.cycle(calls_ms), frames):
        due_ms += chance.expovariate(rate_hz) * 1e3
        answered_ms = max(due_ms, answered_ms) + call_ms
        latencies.append(answered_ms - due_ms)
    return ServedRound(latencies, answered_ms / 1e3)


def as_fast_as_possible(
    session: Session, feeds: Sequence[Feed], frames: int, *, depth: int, untimed: int = 0, workers: int = 1
) -> ServedRound:
    """Keeps ``depth`` frames in flight until all are answered.

    Frames that are not timed come before and after the others: a worker that is idle while another one computes the
    last timed frame would make several workers look slower than they are on a line.

    Args:
        untimed: Frames that come before.
        workers: Frames that the session runs at once; one fewer comes after.
    """
    under_way: deque[Future[Prediction]] = deque()
    answers, began_s = _Answers(), perf_counter()
    for number in range(untimed + frames + workers - 1):
        if len(under_way) == depth:
            under_way.popleft().result()
        given_s = perf_counter()
        future = session.submit(feeds[number % len(feeds)])
        answers.expect(future, given_s)
        under_way.append(future)
    latencies_ms, answered_s = answers.latencies_ms(), answers.answered_s
    timed = slice(untimed, untimed + frames)
    return ServedRound(latencies_ms[timed], answered_s[timed][-1] - (answered_s[untimed - 1] if untimed else began_s))


def warm_up(session: Session, feeds: Sequence[Feed], calls: int, *, workers: int = 1) -> None:
    """Gives frames whose times don't count, since caches and threads are still those of what ran before.

    Args:
        calls: Of each worker.
        workers: Frames that the session runs at once.
    """
    as_fast_as_possible(session, feeds, calls * workers, depth=workers)


class _Answers:
    """The latencies of submitted frames, each noted by the thread that answers.

    Attributes:
        answered_s: Times of the answers, one after the other.
    """

    def __init__(self) -> None:
        self._futures: list[Future[Prediction]] = []
        self._latencies: list[float] = []
        self.answered_s: list[float] = []
        self._noted = threading.Semaphore(0)
        self._noting = threading.Lock()

    def expect(self, future: Future[Prediction], due_s: float) -> None:
        """Notes the latency of a frame when it is answered."""
        self._futures.append(future)
        future.add_done_callback(partial(self._note, due_s))

    def latencies_ms(self) -> list[float]:
        """Waits for all and returns theirs, in the order of `answered_s`; raises the first error of a frame."""
        for _ in self._futures:
            self._noted.acquire()  # a future wakes who waits for it before it calls back
        for future in self._futures:
            future.result()
        return self._latencies

    def _note(self, due_s: float, _: Future[Prediction]) -> None:
        with self._noting:
            self.answered_s.append(perf_counter())
            self._latencies.append((self.answered_s[-1] - due_s) * 1e3)
        self._noted.release()
