"""Submitted calls of a model in stages: stage 1 of a frame runs while stage 2 of the frame before it runs.

It is a chain of dispatchers, one a stage, so that deadlines, devices that fail and devices that hang are dealt with in
each stage as they are for a whole model.

Invariants:

- A call that was taken ends exactly once: with an answer, with an error that is its own, or cancelled.
- A call that fails in one stage doesn't touch the others.
- While no device fails, calls leave each stage in the order in which they came.
- No more calls are under way than `Config.submit_queue` and one a worker of each stage; more are refused.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Literal

from lineside_runtime.errors import DeadlineExceededError, DeviceBusyError, DeviceError
from lineside_runtime.serving.placement import Placement
from lineside_runtime.serving.submit import LinkedFuture, SubmitCounters
from lineside_runtime.serving.submit.counters import Ending
from lineside_runtime.serving.types import Prediction
from lineside_runtime.stages.flow import StageFlow
from lineside_runtime.tensors import Array


class StagePipeline:
    """The submitted calls of one placement in stages."""

    def __init__(
        self,
        stages: Sequence[Placement],
        flow: StageFlow,
        counters: SubmitCounters,
        *,
        workers: int,
        queue_size: int,
        on_answer: Callable[[Prediction], None],
    ) -> None:
        """Makes a dispatcher for each stage.

        Args:
            stages: One placement a stage, in the order in which they run.
            flow: What goes from stage to stage.
            counters: Where calls are counted.
            workers: Threads a stage and device.
            queue_size: Calls that may wait, in all stages together; more are refused.
            on_answer: Told of each answer before its future is.
        """
        self._flow = flow
        self._counters = counters
        self._on_answer = on_answer
        self._limit = queue_size + workers * len(stages)
        self._lock = threading.Lock()
        self._under_way = 0
        self._closed = False
        self._stage_counters = _StageCounters(counters)
        self._stages = [stage.dispatcher(self._stage_counters, _ignore) for stage in stages]
        counters.watch(self)

    def submit(
        self, inputs: Mapping[str, Array], deadline_at_s: float, release: Callable[[], None]
    ) -> Future[Prediction]:
        """Takes a call; the arguments are those of `Dispatcher.submit`.

        Raises:
            DeviceBusyError: Too many calls are under way.
            DeviceLostError: Every device of the first stage hangs and is not due to be tried again.
        """
        call = _Call(LinkedFuture(), inputs, deadline_at_s, release)
        self._admit()
        try:
            stage = self._given(call)
        except BaseException:
            self._left()
            raise
        self._counters.took()
        stage.add_done_callback(partial(self._stage_done, call))
        return call.future

    def close(self) -> None:
        """Takes no more calls and ends those that have not ended with an error; done twice it changes nothing."""
        with self._lock:
            self._closed = True
        for stage in self._stages:
            stage.close()

    def _admit(self) -> None:
        with self._lock:
            if self._closed:
                raise DeviceError("the session is closed", action="Open another one.")
            if self._under_way < self._limit:
                self._under_way += 1
                return
        self._counters.count("refused")
        raise DeviceBusyError(
            f"{self._limit} calls are under way",
            action="Wait for some of the futures, or give Config(submit_queue=…) more room.",
        )

    def _left(self) -> None:
        with self._lock:
            self._under_way -= 1

    def _given(self, call: _Call) -> Future[Prediction]:
        """Gives a call to its next stage."""
        inputs = self._flow.inputs(call.stage, call.tensors)
        call.future.inner = stage = self._stages[call.stage].submit(inputs, call.deadline_at_s, _nothing)
        return stage

    def _stage_done(self, call: _Call, done: Future[Prediction]) -> None:
        try:
            answer = done.result()
            call.answers.append(answer)
            call.tensors = self._flow.after(call.stage, call.tensors, answer.outputs)
            call.stage += 1
            if call.stage < len(self._stages):
                self._given(call).add_done_callback(partial(self._stage_done, call))
                return
            joined = self._flow.join(call.answers, call.tensors)
            self._on_answer(joined)
        except CancelledError:
            self._end(call, "cancelled", call.future.confirm_cancelled)
        except DeadlineExceededError as error:
            self._end(call, "expired", partial(call.future.set_exception, error))
        except BaseException as error:  # noqa: BLE001  the caller's: a future swallows what its callbacks raise
            self._end(call, "failed", partial(call.future.set_exception, error))
        else:
            self._end(call, "answered", partial(call.future.set_result, joined))

    def _end(self, call: _Call, how: Ending, tell: Callable[[], object]) -> None:
        call.tensors, call.answers = {}, []
        self._left()
        self._counters.ended(how)
        try:
            tell()
        finally:
            call.release()
            self._counters.delivered()


@dataclasses.dataclass(eq=False, slots=True)
class _Call:
    """One call in flight.

    Attributes:
        future: What the caller holds.
        tensors: What later stages still need.
        deadline_at_s: When it must have ended, infinite for never.
        release: Gives up the hold on the bundle.
        stage: Number of the stage that has it.
        answers: Of the stages before.
    """

    future: LinkedFuture
    tensors: Mapping[str, Array]
    deadline_at_s: float
    release: Callable[[], None]
    stage: int = 0
    answers: list[Prediction] = dataclasses.field(default_factory=list)


class _StageCounters(SubmitCounters):
    """Counts the stages' calls apart, and moved, late and hung ones in the session's counters as well."""

    def __init__(self, outer: SubmitCounters) -> None:
        super().__init__()
        self._outer = outer

    def count(self, what: Literal["refused", "moved", "late", "hung"]) -> None:
        """Something else happened."""
        super().count(what)
        self._outer.count(what)


def _ignore(_: Prediction) -> None:
    """Ignores the answer of one stage: only the last is the caller's."""


def _nothing() -> None:
    """Releases nothing: a stage holds no bundle."""
