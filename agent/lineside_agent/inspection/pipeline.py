"""The whole flow of a frame, on one page::

    frame ─► Inspector ─► line I/O ─► record (and with it the outbox)
      ▲                     ▲
      └─ trigger ── handshake            where the line triggers (`lineside_agent.line_io.trigger_controller`)

- Every frame ends in exactly one record. A frame that cannot be inspected is a ``fault`` with its reason, and the line
  rejects.
- With several cameras each part ends in one record too, and one bundle inspects all views.
- An unsure verdict is rejected as well; the record says so, so that a person reviews it.
- The signal does not wait for the disk: the record is noted in memory before it, and committed after it.
- A bundle is exchanged between two frames, never within one; without a bundle, frames wait at the camera.
- Several threads may run the pipeline (``[inspect] workers``), each with a frame of its own; the results leave in the
  order of the frames. The views of one part are inspected by as many threads at once.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import cv2

from lineside_agent.cameras import LostFrame, RawShot, Shot, decoded
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.deadline_policy import DeadlinePolicy
from lineside_agent.inspection.loaded_bundle import LoadedBundle
from lineside_agent.inspection.reorder_buffer import ReorderBuffer
from lineside_agent.inspection.views import Capture, Views, combine, has_picture
from lineside_agent.inspection.worker_pool import WorkerPool
from lineside_agent.line_io import Signal
from lineside_agent.line_io.codes import code_of
from lineside_agent.line_io.verdict_reporter import VerdictReporter
from lineside_link.messages import MeasuredValue, ReadMark, ResultRow
from lineside_models.frame import Frame
from lineside_models.identification.mark_reading import MarkReading
from lineside_models.identification.part_ids import read_ids
from lineside_models.inspection import Inspection
from lineside_models.metrology.measurement import Measurement
from lineside_runtime.errors import LinesideError, PartNotFoundError, RegistrationError

log = logging.getLogger("lineside.pipeline")

Deliver = Callable[[ResultRow, Capture | None], object]
Observe = Callable[[ResultRow, Capture | None], object]

_ENGINE_ERRORS = (LinesideError, cv2.error, ValueError, ArithmeticError, MemoryError, RuntimeError, LookupError)
"""Errors that a bundle can cause in its engine and its decoder on some frame; none of them may stop the line."""

_PART_ERRORS = (PartNotFoundError, RegistrationError)
"""Errors of a frame that shows another part, or none."""


@dataclasses.dataclass(slots=True)
class PipelineCounts:
    """Counts of the pipeline, the only writer.

    Attributes:
        inspected: Those that have a result, faults included.
        rejected: Those that were rejected, unsure ones included.
        unsure: Those that were rejected since the verdict was unsure.
        faults: Those that could not be inspected.
        requested_device: Of the last inspected frame.
        used_device: Of the last inspected frame.
        latency_ms: Of the last inspected frame.
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
    """Inspects frames until there are none.

    Args:
        take: Gives the next frame, or the views of the next part; ``None`` at the end.
        reporter: Tells the line the verdict, and records it.
        deliver: Takes each result in place of ``reporter``, where the line triggers.
        observe: Takes each result after that.
        deadline_policy: Selects frames for the faster variant.
        parallel_views: Views of one part that are inspected at once.
    """

    def __init__(
        self,
        take: Callable[[], RawShot | Views | None],
        active: ActiveBundle,
        *,
        reporter: VerdictReporter,
        stop: threading.Event,
        deliver: Deliver | None = None,
        observe: Observe | None = None,
        deadline_policy: DeadlinePolicy | None = None,
        parallel_views: int = 1,
    ) -> None:
        self.counts = PipelineCounts()
        self._take = take
        self._active = active
        self._reporter = reporter
        self._stop = stop
        self._deliver = deliver or self._signal_and_record
        self._observe = observe
        self._deadline_policy = deadline_policy or DeadlinePolicy()
        self._taking = threading.Lock()
        self._order = ReorderBuffer()
        self._pool = WorkerPool(parallel_views, "view")

    def run(self) -> None:
        """Runs in the caller's thread, of which there may be several, until the source ends or it is stopped."""
        while (taken := self._next()) is not None:
            position, given = taken
            row = None
            try:
                shot = given if isinstance(given, Views) else decoded(given)
                row = self._process(shot)
            finally:
                if row is None:
                    self._order.end(position)
            capture = None if isinstance(shot, LostFrame) else shot
            if row is None or not self._order.put(position, functools.partial(self._deliver_result, row, capture)):
                return

    def _next(self) -> tuple[int, RawShot | Views] | None:
        """Takes the next frame and its position in the order; ``None`` at the end."""
        with self._taking:
            if not self._active.wait(self._stop) or (shot := self._take()) is None:
                return None
            self.counts.taken += 1
            return self.counts.taken, shot

    def _deliver_result(self, row: ResultRow, capture: Capture | None) -> None:
        self._deliver(row, capture)
        self._count(row)
        if self._observe is not None:
            self._observe(row, capture)

    def _signal_and_record(self, row: ResultRow, capture: Capture | None) -> None:
        code = code_of(row, has_frame=has_picture(capture, row))
        signal = Signal(row.sequence, row.part_id, row.verdict, code, defects=self._reporter.summarize(row))
        self._reporter.report(signal, row, capture, took_s=row.latency_ms / 1000)

    def abandon(self, shots: Iterable[RawShot]) -> None:
        """Records frames of a live camera that are not inspected any more, since the agent stops."""
        for shot in map(decoded, shots):
            row = _fault(shot, "the agent was stopped before this frame was inspected", recipe=self._active.recipe)
            self._reporter.record(row, shot if isinstance(shot, Frame) else None)
            self._count(row)

    def close(self) -> None:
        """Ends the pool's threads, when nobody runs the pipeline any more."""
        self._pool.close()

    def _process(self, shot: Shot | Views) -> ResultRow | None:
        if isinstance(shot, LostFrame):
            return self._lost_result(shot)
        while True:
            with self._active.use() as loaded:
                if loaded is not None:
                    return self._inspect_with(loaded, shot)
            # The bundle was taken away after this frame was taken: the frame waits for the next bundle.
            if not self._active.wait(self._stop):
                return None  # stopped: it has no record, so a finite source gives it again

    def _inspect_with(self, loaded: LoadedBundle, shot: Shot | Views) -> ResultRow:
        if not isinstance(shot, Views):
            return self._inspect_shot(loaded, shot)
        started_s = time.perf_counter()
        count, size = len(shot.shots), self._pool.size
        # Views that are still inspected before the last one's verdict, with this one.
        left = [math.ceil((count - index) / size) for index in range(count)]
        rows: dict[int, ResultRow] = {}
        ids: list[str] = []
        for numbers in _in_order_of_ids(loaded, shot.shots):
            pieces = [(_with_read_id(shot.shots[number], ids), left[number]) for number in numbers]
            found = self._pool.map(lambda piece: self._inspect_shot(loaded, *piece), pieces)
            rows |= zip(numbers, found, strict=True)
            ids = read_ids(one for row in found for one in row.readings)
        return combine(shot, [rows[number] for number in range(count)], 1000 * (time.perf_counter() - started_s))

    def _inspect_shot(self, loaded: LoadedBundle, shot: Shot, frames_left: int = 1) -> ResultRow:
        return self._lost_result(shot) if isinstance(shot, LostFrame) else self._inspect(loaded, shot, frames_left)

    def _lost_result(self, shot: LostFrame) -> ResultRow:
        log.error("%s: part %r is a fault: %s", shot.source, shot.part_id, shot.reason)
        return _fault(shot, shot.reason, recipe=self._active.recipe)

    def _inspect(self, loaded: LoadedBundle, frame: Frame, frames_left: int) -> ResultRow:
        fast = self._deadline_policy.chooses_fast(loaded, frame, frames_left)
        started_s = time.perf_counter()
        try:
            inspection = loaded.inspect(frame, fast=fast)
        except _ENGINE_ERRORS as error:
            unknown = not isinstance(error, LinesideError)
            log.error("%s: part %r is a fault: %s", frame.source, frame.part_id, error, exc_info=unknown)
            self._active.note_result(loaded, str(error), refused=isinstance(error, _PART_ERRORS))
            return _fault(frame, str(error), loaded, recipe=loaded.recipe)
        self._active.note_result(loaded, "")
        took_s = time.perf_counter() - started_s
        self._deadline_policy.learn(took_s, fast=fast)
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


def _in_order_of_ids(loaded: LoadedBundle, shots: Sequence[Shot]) -> list[list[int]]:
    """Returns the numbers of the views: after the others those that need an id which another one reads."""
    by = [loaded.inspector_of(shot.source) for shot in shots]
    later = [number for number, one in enumerate(by) if one.needs_part_id and any(each.reads_part_id for each in by)]
    return [[number for number in range(len(shots)) if number not in later], *([later] if later else [])]


def _with_read_id(shot: Shot, ids: Sequence[str]) -> Shot:
    return dataclasses.replace(shot, read_id=ids[0]) if len(ids) == 1 and isinstance(shot, Frame) else shot


def _row(inspection: Inspection, latency_ms: float, loaded: LoadedBundle) -> ResultRow:
    # A part that is bad anyway is rejected; the record says what could not be measured or read all the same.
    unmeasured = inspection.fault and inspection.verdict != "bad"
    return ResultRow(
        seq=0,
        part_id=inspection.part_id,
        source=inspection.source,
        sequence=inspection.sequence,
        captured_at_ns=inspection.captured_at_ns,
        verdict="pass" if inspection.passed else "fault" if unmeasured else "reject",
        unsure=inspection.verdict == "unsure" and not unmeasured,
        detections=tuple((found.type, found.score, *found.box) for found in inspection.detections),
        doubtful=tuple((found.type, found.score, *found.box) for found in inspection.doubtful),
        bundle=inspection.bundle,
        bundle_sha256=loaded.bundle.digest,
        requested_device=inspection.requested_device,
        used_device=inspection.used_device,
        fallbacks=inspection.fallbacks,
        cache_hits=inspection.cache_hits,
        latency_ms=round(latency_ms, 3),  # microseconds: the other digits are noise, and the dearest of a packed record
        width=inspection.width,
        height=inspection.height,
        near_miss=inspection.near_miss,
        recipe=inspection.recipe,
        requested_variant=inspection.requested_variant,
        used_variant=inspection.used_variant,
        error=inspection.fault,
        measurements=tuple(_measured(one) for one in inspection.measurements),
        readings=tuple(_read(one) for one in inspection.readings),
    )


def _measured(one: Measurement) -> MeasuredValue:
    return MeasuredValue(**{name: getattr(one, name) for name in MeasuredValue.__struct_fields__})


def _read(one: MarkReading) -> ReadMark:
    outline = tuple((round(x, 1), round(y, 1)) for x, y in one.outline)
    kept = {name: getattr(one, name) for name in ReadMark.__struct_fields__ if name != "outline"}
    return ReadMark(**kept, outline=outline)


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
        requested_device="" if loaded is None else loaded.requested_device,
        used_device="" if loaded is None else loaded.used_device,
        width=width,
        height=height,
        error=reason,
        recipe=recipe,
    )
