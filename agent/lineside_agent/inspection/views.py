"""The views of several cameras on one part, combined into one verdict.

Any camera whose picture is rejected rejects the part; then any that couldn't be judged, or gave no picture, does; then
any of which the verdict was unsure. The part passes only if every camera's picture does. What was found stands in the
record a camera, and of the camera that decided also where a part of one camera has it, so that an older hub reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from lineside_agent.cameras import Shot
from lineside_link.messages import ResultRow, View
from lineside_models.frame import Frame


@dataclasses.dataclass(frozen=True, slots=True)
class Views:
    """One part, by all its cameras.

    Attributes:
        shots: One a camera, in the cameras' order.
        source: Of the part: the names of its cameras.
        sequence: Number of its trigger.
        part_id: The part.
    """

    shots: tuple[Shot, ...]
    source: str
    sequence: int
    part_id: str

    @property
    def captured_at_ns(self) -> int:
        """When the first camera saw it, in Unix nanoseconds."""
        return min(shot.captured_at_ns for shot in self.shots)


Capture = Frame | Views
"""What a verdict is about."""


def joint_source(names: Sequence[str]) -> str:
    """Returns what the records call the cameras of a part together."""
    return "+".join(names)


def combine(part: Views, rows: Sequence[ResultRow], latency_ms: float) -> ResultRow:
    """Returns the part's record."""
    decided = min(rows, key=_rank)
    errors = "; ".join(f"{row.source}: {row.error}" for row in rows if row.error)
    return msgspec.structs.replace(
        decided,
        source=part.source,
        sequence=part.sequence,
        part_id=part.part_id,
        captured_at_ns=part.captured_at_ns,
        latency_ms=latency_ms,
        near_miss=max(row.near_miss for row in rows),
        error=errors,
        views=tuple(_view(row) for row in rows),
    )


def _rank(row: ResultRow) -> int:
    return 2 if row.unsure else ("reject", "fault", "", "pass").index(row.verdict)


def _view(row: ResultRow) -> View:
    return View(
        source=row.source,
        captured_at_ns=row.captured_at_ns,
        verdict=row.verdict,
        unsure=row.unsure,
        detections=row.detections,
        doubtful=row.doubtful,
        width=row.width,
        height=row.height,
        latency_ms=row.latency_ms,
        near_miss=row.near_miss,
        used_variant=row.used_variant,
        error=row.error,
    )


def frames_of(capture: Capture | None, row: ResultRow) -> tuple[Frame, ...]:
    """Returns the images of a part, that of the camera that decided first."""
    if capture is None or isinstance(capture, Frame):
        return () if capture is None else (capture,)
    order = sorted(range(len(capture.shots)), key=lambda place: place != _decisive(row))
    return tuple(shot for place in order if isinstance(shot := capture.shots[place], Frame))


def has_picture(capture: Capture | None, row: ResultRow) -> bool:
    """Returns whether there was a picture to judge; of several cameras, from the one that decided."""
    if isinstance(capture, Views):
        return isinstance(capture.shots[_decisive(row)], Frame)
    return capture is not None


def _decisive(row: ResultRow) -> int:
    """The place of the camera that decided."""
    verdict = (row.verdict, row.unsure)
    return next((place for place, view in enumerate(row.views) if (view.verdict, view.unsure) == verdict), 0)
