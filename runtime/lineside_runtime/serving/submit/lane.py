"""A submitted call, and the queue and worker threads of one device."""

from __future__ import annotations

import dataclasses
import queue
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Literal

import msgspec

from lineside_runtime.backend import Executable
from lineside_runtime.serving.shared import Shared
from lineside_runtime.serving.types import CallPlan, Prediction, Slot, SlotFailure
from lineside_runtime.tensors import Array

HANG_FACTOR = 10
HANG_MIN_S = 1.0
FIRST_CALL_S = 10.0  # a device that compiles at its first call takes seconds
OPEN_MAX_S = 300.0  # TensorRT builds for minutes
SUSPECT_FACTOR = 4
SUSPECT_MIN_S = 0.02


class SubmittedCall(msgspec.Struct, eq=False, weakref=True):
    """One call. Only the dispatcher touches it, under its lock.

    ``turn`` is what makes an answer count once: it goes up whenever the call is given to a device and when it ends, and
    an answer is taken only from the device whose turn it is. Deadlines refer to it weakly: they must not keep answers.

    Attributes:
        inputs: Array by input name; empty when the call has ended.
        future: What the caller holds.
        plan: The devices in the order in which they are tried.
        deadline_at_s: When it must have ended, infinite for never.
        release: Gives up the hold on the bundle.
        lane: Where it waits or runs.
        turn: Whose answer counts.
        started: Whether it can no longer be cancelled.
        tried: Devices that failed it or were too late.
    """

    inputs: Mapping[str, Array]
    future: Future[Prediction]
    plan: CallPlan
    deadline_at_s: float
    release: Callable[[], None]
    lane: Lane | None = None
    turn: int = 0
    started: bool = False
    tried: list[Slot] = []
    failed: list[SlotFailure] = []


@dataclasses.dataclass(slots=True, eq=False)
class Worker:
    """A thread of a lane, and its current call.

    Attributes:
        job: The call that it runs; ``None`` while it waits.
        since_s: Since when it runs, or since when it opens the lane.
        used: The executable that it runs on; ``None`` if the call has to load it first.
    """

    job: SubmittedCall | None = None
    turn: int = 0
    since_s: float = 0.0
    used: Shared[Executable] | None = None


class Lane:
    """One device with its queue and workers; a lane that was closed is never opened again: the device gets a new one.

    Attributes:
        state: ``opening`` while the model is loaded, ``warming`` while it runs for the first time.
        suspect: Whether a call has been on it for suspiciously long: others are used while there are some.
        waiting: Calls that wait or run here.
        workers: Its threads; the first one opens it.
    """

    def __init__(self, slot: Slot, now_s: float) -> None:
        """Makes the lane with its first worker."""
        self.slot = slot
        self.state: Literal["opening", "warming", "open", "closed"] = "opening"
        self.suspect = False
        self.waiting = 0
        self.workers = [Worker(since_s=now_s)]
        self._jobs: deque[tuple[SubmittedCall, int]] = deque()
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()  # one a job: a deque can't be waited for

    def put(self, job: SubmittedCall, *, first: bool = False) -> None:
        """Queues a job, at the front if it has waited elsewhere."""
        if first:
            self._jobs.appendleft((job, job.turn))
        else:
            self._jobs.append((job, job.turn))
        self._tokens.put(None)

    def take(self) -> tuple[SubmittedCall, int] | None:
        """Waits for the next job; ``None`` when the lane is closed and empty."""
        while True:
            self._tokens.get()
            try:
                return self._jobs.popleft()
            except IndexError:  # it was moved to another lane
                if self.state == "closed":
                    return None

    def drain(self) -> list[SubmittedCall]:
        """Takes out all jobs whose turn is still here, in their order."""
        drained = []
        while self._jobs:
            job, turn = self._jobs.popleft()
            if job.turn == turn:
                drained.append(job)
        return drained

    def close(self) -> None:
        """Ends the workers after their current calls."""
        self.state = "closed"
        for _ in self.workers:
            self._tokens.put(None)

    def is_slow(self, worker: Worker, now_s: float) -> bool:
        """Whether the worker takes suspiciously long."""
        if self.state in ("opening", "warming"):
            return True
        service_s = self.slot.load.service_ms / 1e3
        return worker.job is not None and now_s - worker.since_s >= max(SUSPECT_FACTOR * service_s, SUSPECT_MIN_S)

    def hangs_at_s(self, worker: Worker) -> float:
        """When the worker counts as hung if it is not done by then."""
        if self.state == "opening" or (worker.job is not None and worker.used is None):  # the call loads it again first
            return worker.since_s + OPEN_MAX_S
        load = self.slot.load
        if self.state == "warming" or not load.measured:
            return worker.since_s + FIRST_CALL_S
        return worker.since_s + max(HANG_FACTOR * load.service_ms / 1e3, HANG_MIN_S)
