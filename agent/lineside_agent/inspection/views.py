"""The views of several cameras on one part, combined into one verdict.

The part is rejected if any view is rejected; else it is a fault if any view could not be inspected or is missing; else
it is unsure if any view is. It passes only if every view does. The findings are in the record for each camera, and
those of the decisive camera also where a part of one camera has them, so that an older hub reads them. A part id that
a camera has read is the part's; if two cameras read different ones, the part is a fault.
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
    """One part, as all its cameras saw it.

    Attributes:
        shots: One a camera, in the cameras' order.
        source: Common name of the cameras.
        sequence: Number of the trigger.
    """

    shots: tuple[Shot, ...]
    source: str
    sequence: int
    part_id: str

    @property
    def captured_at_ns(self) -> int:
        """Time of the first capture, in Unix nanoseconds."""
        return min(shot.captured_at_ns for shot in self.shots)


Capture = Frame | Views
"""What the cameras captured of one part."""


def joint_source(names: Sequence[str]) -> str:
    """Returns the common name of the cameras of a part in the records."""
    return "+".join(names)


def combine(part: Views, rows: Sequence[ResultRow], latency_ms: float) -> ResultRow:
    """Returns the record of a part from the results of its views, in their order, with their total latency."""
    read_ids = sorted({row.part_id for row in rows} - {part.part_id})
    if len(read_ids) > 1:
        rows = [_contradicted(row, read_ids) if row.part_id in read_ids else row for row in rows]
    decided = min(rows, key=_rank)
    errors = "; ".join(f"{row.source}: {row.error}" for row in rows if row.error)
    return msgspec.structs.replace(
        decided,
        source=part.source,
        sequence=part.sequence,
        part_id=read_ids[0] if len(read_ids) == 1 else part.part_id,
        captured_at_ns=part.captured_at_ns,
        latency_ms=latency_ms,
        near_miss=max(row.near_miss for row in rows),
        error=errors,
        fallbacks=sum(row.fallbacks for row in rows),
        cache_hits=sum(row.cache_hits for row in rows),
        views=tuple(_view(row) for row in rows),
    )


def _contradicted(row: ResultRow, read_ids: Sequence[str]) -> ResultRow:
    """Returns a view of a part whose cameras read different part ids: it never passes."""
    why = "; ".join(filter(None, [row.error, f"the cameras read different part ids: {', '.join(read_ids)}"]))
    return msgspec.structs.replace(row, verdict="fault" if row.verdict == "pass" else row.verdict, error=why)


def _rank(row: ResultRow) -> int:
    return 2 if row.unsure else ("reject", "fault", "", "pass").index(row.verdict)


def _view(row: ResultRow) -> View:
    return View(**{name: getattr(row, name) for name in View.__struct_fields__})


def frames_of(capture: Capture | None, row: ResultRow) -> tuple[Frame, ...]:
    """Returns the images of a part, that of the decisive camera first."""
    if capture is None or isinstance(capture, Frame):
        return () if capture is None else (capture,)
    order = sorted(range(len(capture.shots)), key=lambda index: index != _decisive(row))
    return tuple(shot for index in order if isinstance(shot := capture.shots[index], Frame))


def has_picture(capture: Capture | None, row: ResultRow) -> bool:
    """Returns whether there was an image to inspect; with several cameras, from the decisive one."""
    if isinstance(capture, Views):
        return isinstance(capture.shots[_decisive(row)], Frame)
    return capture is not None


def _decisive(row: ResultRow) -> int:
    """Returns the index of the camera that decided."""
    verdict = (row.verdict, row.unsure)
    return next((index for index, view in enumerate(row.views) if (view.verdict, view.unsure) == verdict), 0)
