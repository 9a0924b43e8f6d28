"""The whole flow of a frame, on one page::

    frame ─► Inspector ─► line I/O ─► record (and with it the outbox)
      ▲                     ▲
      └─ trigger ── handshake            where the line triggers (`lineside_agent.line_io.trigger_controller`)

- Every frame ends in exactly one record. What can't be judged is a ``fault`` with its reason, and the line rejects.
- Where several cameras see each part, it ends in one record all the same, judged by one bundle.
- What the bundle is unsure of is rejected as well; the record says so, and a person gets to see it.
- The line comes first, the record right behind: the signal doesn't wait for the disk.
- A bundle is exchanged between two frames, never within one; while there is none, frames wait at the camera.
- Several threads may run it (``[inspect] workers``): each judges a frame of its own, and what they found leaves in the
  order in which the frames came. What several cameras saw of one part is judged by as many threads at once.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import cv2

from lineside_agent.cameras import Given, LostFrame, Shot, opened
from lineside_agent.health.result_statistics import ResultStatistics
from lineside_agent.inspection.active_bundle import ActiveInspector
from lineside_agent.inspection.deadline_policy import DeadlinePolicy
from lineside_agent.inspection.loaded_bundle import LoadedBundle
from lineside_agent.inspection.reorder_buffer import ReorderBuffer
from lineside_agent.inspection.views import Seen, Views, has_picture, put_together
from lineside_agent.inspection.worker_pool import WorkerPool
from lineside_agent.line_io import LineOutput, Signal
from lineside_agent.line_io.codes import code_of
from lineside_agent.line_io.events import NO_DEFECTS, DefectSummary
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_models.inspection import Inspection
from lineside_runtime.errors import LinesideError

log = logging.getLogger("lineside.pipeline")

Record = Callable[[ResultRow, Seen | None], bool]
Deliver = Callable[[ResultRow, Seen | None], object]
Observe = Callable[[ResultRow, Seen | None], object]
Verdict = Literal["pass", "reject", "fault"]

_ENGINE_ERRORS = (LinesideError, cv2.error, ValueError, ArithmeticError, MemoryError, RuntimeError, LookupError)
"""What a bundle can make its engine and its decoder raise on some frame; none of it may stop the line."""


@dataclasses.dataclass(slots=True)
class PipelineCounts:
    """What the pipeline did; written by it alone.

    Attributes:
        taken: Frames that it was given.
        inspected: Of those, that were judged and told on, faults included.
        passed: Of those.
        rejected: Of those.
        unsure: Of the rejected.
        faults: Of those.
        requested_device: Of the last judged frame.
        used_device: Of the last judged frame.
        latency_ms: Of the last judged frame.
    """

    taken: int = 0
    inspected: int = 0
    passed: int = 0
    rejected: int = 0
    unsure: int = 0
    faults: int = 0
    requested_device: str = ""
    used_device: str = ""
    latency_ms: float = 0.0


class InspectionPipeline:
    """Takes frames until there are none.

    Args:
        take: Gives the next frame, or what several cameras saw of the next part; ``None`` at the end.
        active: Holds the bundle that runs.
        outputs: Where verdicts are signalled.
        record: Keeps a row.
        stop: Ends the wait for a first bundle.
        deliver: Takes each row instead of ``outputs`` and ``record``, where the line triggers.
        observe: Looks at each frame after all that.
        deadline_policy: Says which frames the bundle's faster variant judges.
        parallel_views: Frames of one part, where several cameras see it, that are judged at once.
        summarize: Says what a record tells the line of defects.
        statistics: Counts what the line is told, where it does not trigger.
    """

    def __init__(
        self,
        take: Callable[[], Given | Views | None],
        active: ActiveInspector,
        *,
        outputs: Sequence[LineOutput],
        record: Record,
        stop: threading.Event,
        deliver: Deliver | None = None,
        observe: Observe | None = None,
        deadline_policy: DeadlinePolicy | None = None,
        parallel_views: int = 1,
        summarize: Callable[[ResultRow], DefectSummary] = lambda _: NO_DEFECTS,
        statistics: ResultStatistics | None = None,
    ) -> None:
        self.counts = PipelineCounts()
        self._take = take
        self._active = active
        self._outputs = outputs
        self._record = record
        self._stop = stop
        self._deliver = deliver or self._tell_and_record
        self._observe = observe
        self._deadline_policy = deadline_policy or DeadlinePolicy()
        self._summarize = summarize
        self._statistics = statistics or ResultStatistics()
        self._taking = threading.Lock()
        self._order = ReorderBuffer()
        self._pool = WorkerPool(parallel_views, "view")

    def run(self) -> None:
        """Runs in the caller's thread until the source ends or it is stopped; any number of threads may."""
        while (taken := self._next()) is not None:
            turn, given = taken
            row = None
            try:
                shot = given if isinstance(given, Views) else opened(given)
                row = self._judge(shot)
            finally:
                if row is None:
                    self._order.end(turn)
            seen = None if isinstance(shot, LostFrame) else shot
            if row is None or not self._order.tell(turn, functools.partial(self._tell_on, row, seen)):
                return

    def _next(self) -> tuple[int, Given | Views] | None:
        """The next frame and its place in the order; ``None`` at the end."""
        with self._taking:
            if not self._active.wait(self._stop) or (shot := self._take()) is None:
                return None
            self.counts.taken += 1
            return self.counts.taken, shot

    def _tell_on(self, row: ResultRow, seen: Seen | None) -> None:
        self._deliver(row, seen)
        self._count(row)
        if self._observe is not None:
            self._observe(row, seen)

    def _tell_and_record(self, row: ResultRow, seen: Seen | None) -> None:
        code = code_of(row, has_frame=has_picture(seen, row))
        signal = Signal(row.sequence, row.part_id, row.verdict, code, defects=self._summarize(row))
        for output in self._outputs:
            output.signal(signal)
        self._statistics.add(code, row, row.latency_ms / 1000)
        self._record(row, seen)

    def abandon(self, shots: Iterable[Given]) -> None:
        """Records frames of a live camera that nobody will judge any more, since the agent stops."""
        for shot in map(opened, shots):
            row = _fault(shot, "the agent was stopped before this frame was judged", recipe=self._active.recipe)
            self._record(row, shot if isinstance(shot, Frame) else None)
            self._count(row)

    def close(self) -> None:
        """Ends its threads, when nobody runs it any more."""
        self._pool.close()

    def _judge(self, shot: Shot | Views) -> ResultRow | None:
        if isinstance(shot, LostFrame):
            return self._lost(shot)
        while True:
            with self._active.use() as loaded:
                if loaded is not None:
                    return self._judge_by(loaded, shot)
            # The bundle was taken away after this frame was taken: the frame waits for the next bundle.
            if not self._active.wait(self._stop):
                return None  # stopped: it has no record, so a finite source gives it again

    def _judge_by(self, loaded: LoadedBundle, shot: Shot | Views) -> ResultRow:
        if not isinstance(shot, Views):
            return self._judge_one(loaded, shot)
        started_s = time.perf_counter()
        count, size = len(shot.shots), self._pool.size
        # Those that are still to be judged in front of the last one's verdict, this one among them.
        left = [math.ceil((count - place) / size) for place in range(count)]
        pieces = tuple(zip(shot.shots, left, strict=True))
        rows = self._pool.do(lambda piece: self._judge_one(loaded, *piece), pieces)
        return put_together(shot, rows, 1000 * (time.perf_counter() - started_s))

    def _judge_one(self, loaded: LoadedBundle, shot: Shot, frames_left: int = 1) -> ResultRow:
        return self._lost(shot) if isinstance(shot, LostFrame) else self._inspect(loaded, shot, frames_left)

    def _lost(self, shot: LostFrame) -> ResultRow:
        log.error("part %r is a fault: %s: %s", shot.part_id, shot.source, shot.reason)
        return _fault(shot, shot.reason, recipe=self._active.recipe)

    def _inspect(self, loaded: LoadedBundle, frame: Frame, frames_left: int) -> ResultRow:
        fast = self._deadline_policy.chooses_fast(loaded, frame, frames_left)
        started_s = time.perf_counter()
        try:
            inspection = loaded.inspect(frame, fast=fast)
        except _ENGINE_ERRORS as error:
            log.error("part %r is a fault: %s", frame.part_id, error, exc_info=not isinstance(error, LinesideError))
            self._active.judged(loaded, str(error))
            return _fault(frame, str(error), loaded, recipe=loaded.recipe)
        self._active.judged(loaded, "")
        took_s = time.perf_counter() - started_s
        self._deadline_policy.took(took_s, fast=fast)
        return _row(inspection, 1000 * took_s, loaded)

    def _count(self, row: ResultRow) -> None:
        counts = self.counts
        counts.passed += row.verdict == "pass"
        counts.rejected += row.verdict == "reject"
        counts.unsure += row.unsure
        counts.faults += row.verdict == "fault"
        if row.verdict != "fault":
            counts.requested_device, counts.used_device = row.requested_device, row.used_device
            counts.latency_ms = row.latency_ms
        counts.inspected += 1


def _row(inspection: Inspection, latency_ms: float, loaded: LoadedBundle) -> ResultRow:
    return ResultRow(
        seq=0,
        part_id=inspection.part_id,
        source=inspection.source,
        sequence=inspection.sequence,
        captured_at_ns=inspection.captured_at_ns,
        verdict="pass" if inspection.passed else "reject",
        unsure=inspection.verdict == "unsure",
        detections=tuple((found.type, found.score, *found.box) for found in inspection.detections),
        doubtful=tuple((found.type, found.score, *found.box) for found in inspection.doubtful),
        bundle=inspection.bundle,
        bundle_sha256=loaded.bundle.digest,
        requested_device=inspection.requested_device,
        used_device=inspection.used_device,
        latency_ms=latency_ms,
        width=inspection.width,
        height=inspection.height,
        near_miss=inspection.near_miss,
        recipe=inspection.recipe,
        requested_variant=inspection.requested_variant,
        used_variant=inspection.used_variant,
    )


def _fault(shot: Shot, reason: str, loaded: LoadedBundle | None = None, *, recipe: str = "") -> ResultRow:
    height, width = shot.size if isinstance(shot, Frame) else (0, 0)
    return ResultRow(
        seq=0,
        part_id=shot.part_id,
        source=shot.source,
        sequence=shot.sequence,
        captured_at_ns=shot.captured_at_ns,
        verdict="fault",
        bundle="" if loaded is None else loaded.bundle.manifest.identity,
        bundle_sha256="" if loaded is None else loaded.bundle.digest,
        requested_device="" if loaded is None else loaded.session.requested_device,
        used_device="" if loaded is None else loaded.session.used_device,
        width=width,
        height=height,
        error=reason,
        recipe=recipe,
    )
