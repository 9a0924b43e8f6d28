"""Give submitted calls to the devices of a bundle, and to the next one when one fails or is late.

Invariants:

- A call that was taken ends exactly once: with the answer of the device whose turn it is, with an error, or cancelled.
- The time that is left is divided by the devices that are left: a call that has used its part without an answer goes to
  the next device, so that this one still has a chance. At its deadline it ends with `DeadlineExceededError`.
- A device that keeps a call suspiciously long is avoided while there are others. If it keeps it for `HANG_FACTOR` times
  its measured time (and at least `HANG_MIN_S`), it hangs: its thread is abandoned, since a native call can't be ended,
  and the device is taken out. After a pause that doubles it is tried with zeros, in a new thread and with the model
  loaded anew, so that no call has to wait for the trial.
- A call is taken at once: devices that were not needed before are searched for meanwhile, which imports their engines.
  A call whose device fails before they are found waits for the search.
- Nothing is called back, logged or loaded under the lock.

The executors of the standard library have neither deadlines of calls nor a second worker that takes over a call.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from lineside_runtime.errors import DeadlineExceededError, DeviceBusyError, DeviceError, DeviceLostError, LinesideError
from lineside_runtime.logs import log
from lineside_runtime.serving.device_pool import DevicePool
from lineside_runtime.serving.submit.counters import Ending, SubmitCounters
from lineside_runtime.serving.submit.deadline_timer import DeadlineTimer
from lineside_runtime.serving.submit.lane import Lane, SubmittedCall, Worker
from lineside_runtime.serving.types import Prediction, Slot, SlotFailure
from lineside_runtime.tensors import Array

SEARCH_S = 0.1
"""How long a device that hangs is given again while others are still searched for."""

_After = list[Callable[[], object]]


class Dispatcher:
    """Serves the submitted calls of one placement; threads are started with the first one."""

    def __init__(
        self,
        pool: DevicePool,
        counters: SubmitCounters,
        *,
        workers: int,
        queue_size: int,
        on_answer: Callable[[Prediction], None],
    ) -> None:
        """Starts no thread yet.

        Args:
            pool: The devices that serve.
            counters: Where calls are counted.
            workers: Threads a device.
            queue_size: Calls that may wait for a device; more are refused.
            on_answer: Told of each answer before its future is.
        """
        self._pool = pool
        self._counters = counters
        self._workers = workers
        self._room = queue_size + workers
        self._on_answer = on_answer
        self._lock = threading.Lock()
        self._lanes: dict[Slot, Lane] = {}
        self._jobs: set[SubmittedCall] = set()
        self._deadlines = DeadlineTimer("lineside-deadlines")
        self._closed = False
        self._searched = threading.Event()
        counters.watch(self)
        pool.on_taken_out(self.taken_out)

    def submit(
        self, inputs: Mapping[str, Array], deadline_at_s: float, release: Callable[[], None]
    ) -> Future[Prediction]:
        """Takes a call.

        Args:
            inputs: Array by input name, checked.
            deadline_at_s: Time of ``time.monotonic`` at which it must have ended; infinite for no deadline.
            release: Called once when the call has ended; not if it is refused.

        Raises:
            DeviceBusyError: The queue is full.
            DeviceLostError: Every device hangs and is not due to be tried again.
        """
        plan = self._pool.plan()
        now = time.monotonic()
        job = SubmittedCall(inputs, Future(), plan, deadline_at_s, release)
        try:
            with self._locked() as after:
                if self._closed:
                    raise DeviceError("the session is closed", action="Open another one.")
                lane = self._admitting(job, now)
                self._jobs.add(job)
                self._counters.took()
                if now < deadline_at_s:
                    self._put(job, lane, now)
                else:  # the look-up in the cache took all of the time
                    self._end(job, self._deadline_error(job), after, "expired")
        except DeviceError:
            self._pool.ended(plan)
            raise
        return job.future

    def waiting(self, slot: Slot) -> int:
        """Returns how many calls wait or run on a device."""
        with self._lock:
            lane = self._lanes.get(slot)
            return lane.waiting if lane else 0

    def open(self, slots: Sequence[Slot]) -> None:
        """Starts the threads of devices ahead of their first call."""
        with self._lock:
            if not self._closed:
                for slot in slots:
                    if slot not in self._lanes:
                        self._open(slot, time.monotonic())

    def search_devices(self) -> None:
        """Begins to look for the devices that were not needed before; their engines are imported in a thread."""
        threading.Thread(target=self._search, name="lineside-search", daemon=True).start()

    def _search(self) -> None:
        try:
            self._pool.all_slots()
        except Exception:  # as for `_opened`: who needs another device meets it again
            log.warning("other devices can't be searched for", exc_info=True)
        with self._lock:
            self._searched.set()
            now = time.monotonic()
            for job in self._jobs:
                self._limit_patience(job, now)

    def close(self) -> None:
        """Takes no more calls and ends those that have not ended with an error; done twice it changes nothing."""
        with self._locked() as after:
            self._closed = True
            for lane in self._lanes.values():
                lane.close()
            self._lanes.clear()
            for job in list(self._jobs):
                self._end(job, DeviceError("the session was closed before the call was answered"), after, "failed")
            after.append(self._deadlines.stop)

    def taken_out(self, slot: Slot) -> None:
        """Moves what waits for a device that the placement has taken out."""
        with self._locked() as after:
            lane = self._lanes.pop(slot, None)
            if lane is not None:
                lane.close()
                for worker in lane.workers:
                    if worker.job is not None:
                        self._watch(lane, worker)
                for job in reversed(lane.drain()):
                    self._next(job, DeviceLostError(f"{slot.engine_and_device} was taken out"), after)

    # Choosing a device.

    def _admitting(self, job: SubmittedCall, now: float) -> Lane:
        lane = self._choose(job, now)
        if lane is None:
            self._counters.count("refused")
            raise self._pool.all_hang()
        if lane.waiting < self._room:
            return lane
        for slot in self._pool.replicas:
            other = self._lanes.get(slot)
            if other is not None and other.waiting < self._room and not (slot.failures or other.suspect):
                return other
        self._counters.count("refused")
        raise DeviceBusyError(
            f"{lane.waiting} calls are with {lane.slot.engine_and_device}",
            action="Wait for some of the futures, or give Config(submit_queue=…) more room.",
        )

    def _choose(self, job: SubmittedCall, now: float, *, without: Slot | None = None) -> Lane | None:
        """Returns the first good lane for a job; or else one that is slow or on trial; or else one that failed."""
        second: Lane | None = None
        third: Slot | None = None
        for slot in self._order(job):
            if slot in job.tried or slot is without:
                continue
            lane = self._lanes.get(slot)
            if not slot.failures or lane is not None or self._pool.may_try(slot):
                lane = lane or self._open(slot, now)
                if not (slot.failures or lane.suspect):
                    return lane
                second = second or lane
            elif not slot.hung:
                third = third or slot
        if second is None and third is not None:
            return self._open(third, now)
        return second

    def _open(self, slot: Slot, now: float) -> Lane:
        lane = self._lanes[slot] = Lane(slot, now)
        self._watch(lane, lane.workers[0])
        self._start(lane, lane.workers[0])
        return lane

    def _start(self, lane: Lane, worker: Worker) -> None:
        name = f"lineside-{lane.slot.engine_and_device}"
        threading.Thread(target=self._work, args=(lane, worker), name=name, daemon=True).start()

    def _put(self, job: SubmittedCall, lane: Lane, now: float, *, first: bool = False) -> None:
        job.lane = lane
        job.turn += 1
        lane.waiting += 1
        self._pool.given(job.plan, lane.slot)
        lane.put(job, first=first)
        self._limit_patience(job, now)

    def _limit_patience(self, job: SubmittedCall, now: float) -> None:
        if job.deadline_at_s < math.inf:
            self._deadlines.at(self._patience_ends_s(job, now), partial(self._late, weakref.ref(job), job.turn))

    def _patience_ends_s(self, job: SubmittedCall, now: float) -> float:
        here = job.lane.slot if job.lane else None
        others = sum(slot is not here and slot not in job.tried and not slot.failures for slot in self._order(job))
        return now + (job.deadline_at_s - now) / (others + 1) if others else job.deadline_at_s

    def _order(self, job: SubmittedCall) -> Sequence[Slot]:
        """Returns the devices of a call's plan, then those that were found since."""
        planned, known = job.plan.order, self._pool.slots
        if len(planned) == len(known):
            return planned
        return (*planned, *(slot for slot in known if slot not in planned))

    # What a worker does.

    def _work(self, lane: Lane, worker: Worker) -> None:
        if worker is lane.workers[0] and not self._opened(lane):
            return
        while (taken := lane.take()) is not None:
            self._serve(lane, worker, *taken)

    def _opened(self, lane: Lane) -> bool:
        """Loads the model and warms it up; returns false if that failed or took too long."""
        slot = lane.slot
        try:
            failed = self._pool.prepare(slot, partial(self._loaded, lane))
        except BaseException:  # no call's error yet: the next call meets it again
            failed = None
            log.warning("%s can't be prepared", slot.engine_and_device, exc_info=True)
        if failed is not None:
            self._searched.wait()
        with self._locked() as after:
            if lane.state == "closed":
                return False
            if failed is not None:
                self._take_out(lane, failed, after)
                return False
            lane.state, lane.suspect = "open", False
            if slot.failures:
                self._pool.revive(slot)
                after.append(partial(log.warning, "%s answers again", slot.engine_and_device))
            more = [Worker() for _ in range(self._workers - 1)]
            lane.workers += more
        for worker in more:
            self._start(lane, worker)
        return True

    def _loaded(self, lane: Lane) -> None:
        """Starts the time limit of the warm-up, which is shorter than that of loading."""
        with self._lock:
            worker = lane.workers[0]
            if lane.state == "opening":
                lane.state, worker.since_s = "warming", time.monotonic()
                self._watch(lane, worker)

    def _serve(self, lane: Lane, worker: Worker, job: SubmittedCall, turn: int) -> None:
        inputs = self._begin(lane, worker, job, turn)
        if inputs is None:
            return
        answer: Prediction | SlotFailure | BaseException
        try:
            answer = self._pool.attempt(lane.slot, inputs, job.plan.asked)
        except BaseException as error:  # noqa: BLE001  the caller's, as in every executor: a dead worker loses calls
            answer = error
        try:
            self._served(lane, worker, job, turn, answer)
        finally:  # an error's traceback leads to this frame, a call to its error: that circle holds an engine's memory
            del job, answer, inputs

    def _served(
        self,
        lane: Lane,
        worker: Worker,
        job: SubmittedCall,
        turn: int,
        answer: Prediction | SlotFailure | BaseException,
    ) -> None:
        with self._lock:
            worker.job = None
            lane.suspect = False
            late = job.turn != turn
            if not (late or isinstance(answer, SlotFailure)):
                self._leave(job)
        if late or isinstance(answer, SlotFailure):
            self._not_served(lane, job, turn, answer)
        elif isinstance(answer, BaseException):
            self._deliver(job, "failed", partial(job.future.set_exception, answer))
        else:
            self._answer(lane, job, answer)

    def _begin(self, lane: Lane, worker: Worker, job: SubmittedCall, turn: int) -> Mapping[str, Array] | None:
        """Returns the inputs if the call is still to be run here."""
        with self._lock:
            if job.turn != turn:
                return None
            if (job.started or job.future.set_running_or_notify_cancel()) and lane.state != "closed":
                job.started = True
                worker.job, worker.turn, worker.since_s, worker.used = job, turn, time.monotonic(), lane.slot.executable
                return job.inputs
        with self._locked() as after:
            if job.turn == turn and job.future.cancelled():
                self._leave(job)
                after.append(partial(self._deliver, job, "cancelled"))
            elif job.turn == turn:  # the device was taken out since the worker took the call
                job.started = True
                self._next(job, DeviceLostError(f"{lane.slot.engine_and_device} was taken out"), after)
        return None

    def _answer(self, lane: Lane, job: SubmittedCall, answer: Prediction) -> None:
        """Answers the caller, then takes out the devices that failed the call."""
        self._pool.measured(lane.slot, answer.inference_ms)
        self._on_answer(answer)
        self._counters.ended("answered")
        try:
            job.future.set_result(answer)
            if job.failed or lane.slot.failures:
                self._pool.settle(lane.slot, job.failed)
        finally:
            job.release()
            self._counters.delivered()

    def _not_served(
        self, lane: Lane, job: SubmittedCall, turn: int, answer: Prediction | SlotFailure | BaseException
    ) -> None:
        if not isinstance(answer, SlotFailure):
            self._counters.count("late")
            log.warning("%s: an answer came too late and is dropped", lane.slot.engine_and_device)
            return
        self._searched.wait()
        with self._locked() as after:
            if job.turn == turn:
                job.failed.append(answer)
                job.tried.append(answer.slot)
                self._next(job, answer.error, after)

    # When a device fails or is late.

    def _late(self, waited: weakref.ref[SubmittedCall], turn: int) -> None:
        """A call has used up its part of the time, or all of it."""
        now = time.monotonic()
        with self._locked() as after:
            job = waited()
            if job is None or job.turn != turn or job.lane is None:
                return
            self._suspect(job.lane, now, after)
            if job.turn != turn:  # moved with all that waits there
                return
            if now >= job.deadline_at_s:
                self._end(job, self._deadline_error(job), after, "expired")
            elif not self._move(job, job.lane, now):
                self._deadlines.at(job.deadline_at_s, partial(self._late, waited, turn))

    def _suspect(self, lane: Lane, now: float, after: _After) -> None:
        """Avoids a lane whose worker takes suspiciously long, and looks again when it would count as hung."""
        slow = [worker for worker in lane.workers if lane.is_slow(worker, now)]
        if lane.suspect or not slow or lane.state == "closed":
            return
        lane.suspect = True
        if lane.state == "open":
            for worker in slow:
                self._watch(lane, worker)
            error = DeadlineExceededError(f"no answer for {(now - slow[0].since_s) * 1e3:.0f} ms")
            after.append(partial(self._pool.note, lane.slot, error))
        for job in reversed(lane.drain()):
            if not self._move(job, lane, now):
                lane.put(job, first=True)

    def _watch(self, lane: Lane, worker: Worker) -> None:
        self._deadlines.at(lane.hangs_at_s(worker), partial(self._hung, lane, worker, worker.since_s))

    def _hung(self, lane: Lane, worker: Worker, since_s: float) -> None:
        """Takes a device out if its worker is still at the same call."""
        now = time.monotonic()
        with self._locked() as after:
            at_it = worker.job is not None or lane.state in ("opening", "warming")
            if worker.since_s != since_s or not at_it:
                return
            if now < lane.hangs_at_s(worker):  # its measured time has grown meanwhile
                self._watch(lane, worker)
                return
            if not self._searched.is_set():
                self._deadlines.at(now + SEARCH_S, partial(self._hung, lane, worker, since_s))
                return
            error = DeviceLostError(f"{lane.slot.engine_and_device} hangs: no answer for {now - since_s:.1f} s")
            failed = SlotFailure(lane.slot, worker.used, error, lane.slot.failures)
            if lane.state == "closed":  # the device was taken out before, for another reason
                self._rescue([worker], failed, [], after)
                return
            self._counters.count("hung")
            after.append(partial(self._pool.note, lane.slot, error))
            self._take_out(lane, failed, after, hung=True)

    def _take_out(self, lane: Lane, failed: SlotFailure, after: _After, *, hung: bool = False) -> None:
        """Takes a device out that could not be opened, or hangs; its calls fail with the reason, or go elsewhere."""
        self._lanes.pop(lane.slot, None)
        lane.close()
        after.append(self._pool.take_out(failed, hung=hung, known_to=self.taken_out))
        self._rescue(lane.workers, failed, lane.drain(), after)

    def _rescue(
        self, workers: Sequence[Worker], failed: SlotFailure, waiting: list[SubmittedCall], after: _After
    ) -> None:
        """Moves the calls of hung workers, and those that wait behind them, to the next device."""
        stuck = [worker.job for worker in workers if worker.job is not None and worker.job.turn == worker.turn]
        for job in reversed(stuck + waiting):
            job.failed.append(failed)
            job.tried.append(failed.slot)
            self._next(job, failed.error, after)

    def _move(self, job: SubmittedCall, lane: Lane, now: float) -> bool:
        """Gives a call to another device, if there is a better one; for one that only waits no model is loaded."""
        other = self._choose(job, now, without=lane.slot) if lane.suspect else self._other_open(job, lane)
        if other is None or other.suspect:
            return False
        if any(worker.job is job and worker.turn == job.turn for worker in lane.workers):
            job.tried.append(lane.slot)
        self._hand(job, other, now)
        return True

    def _other_open(self, job: SubmittedCall, lane: Lane) -> Lane | None:
        lanes = [self._lanes.get(slot) for slot in self._order(job) if slot not in job.tried and not slot.failures]
        return next((one for one in lanes if one is not None and one is not lane and one.state == "open"), None)

    def _next(self, job: SubmittedCall, error: LinesideError, after: _After) -> None:
        """Gives a call whose device failed to the next one, or ends it."""
        now = time.monotonic()
        other = self._choose(job, now)
        if other is None:
            after.append(partial(self._pool.give_up, list(job.failed)))
            self._end(job, job.failed[0].error if job.failed else error, after, "failed")
        else:
            self._hand(job, other, now)

    def _hand(self, job: SubmittedCall, lane: Lane, now: float) -> None:
        if job.lane is not None:
            job.lane.waiting -= 1
        self._counters.count("moved")
        self._put(job, lane, now, first=True)

    # How a call ends.

    def _end(self, job: SubmittedCall, error: LinesideError, after: _After, how: Ending) -> None:
        if job.started or job.future.set_running_or_notify_cancel():
            after.append(partial(self._deliver, job, how, partial(job.future.set_exception, error)))
        else:
            after.append(partial(self._deliver, job, "cancelled"))
        job.started = True
        self._leave(job)

    def _leave(self, job: SubmittedCall) -> None:
        """Ends a call's turn, so that no later answer counts."""
        job.turn += 1
        job.inputs = {}
        if job.lane is not None:
            job.lane.waiting -= 1
            job.lane = None
        self._pool.ended(job.plan)
        self._jobs.discard(job)

    def _deliver(self, job: SubmittedCall, how: Ending, tell: Callable[[], None] | None = None) -> None:
        self._counters.ended(how)
        try:
            if tell is not None:
                tell()
        finally:
            job.release()
            self._counters.delivered()

    def _deadline_error(self, job: SubmittedCall) -> DeadlineExceededError:
        asked = ", ".join(slot.engine_and_device for slot in job.tried) or job.plan.asked.engine_and_device
        error = DeadlineExceededError(
            "no device answered in time", expected="an answer before the deadline", actual=asked
        )
        error.__cause__ = job.failed[0].error if job.failed else None
        return error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[_After]:
        """Holds the lock, and does afterwards what must not be done under it."""
        after: _After = []
        with self._lock:
            yield after
        for effect in after:
            effect()
