"""The views of several cameras on one part, combined into one verdict.

The part is rejected if any view is rejected; else it is a fault if any view could not be inspected or is missing; else
it is unsure if any view is. It passes only if every view does. The findings are in the record for each camera, and
those of the decisive camera also where a part of one camera has them, so that an older hub reads them. A part id that
a camera has read is the part's, and cameras that read none find expected values by it; if two cameras read different
ones, the part is a fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from lineside_agent.cameras import Shot
from lineside_link.messages import ResultRow, View
from lineside_models.frame import Frame
from lineside_models.identification.part_ids import read_ids, with_id_faults


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
    ids = read_ids(one for row in rows for one in row.readings)
    rows = [_with_id_faults(row, ids) for row in rows]
    decided = min(rows, key=_rank)
    errors = "; ".join(f"{row.source}: {row.error}" for row in rows if row.error)
    return msgspec.structs.replace(
        decided,
        source=part.source,
        sequence=part.sequence,
        part_id=ids[0] if len(ids) == 1 else part.part_id,
        captured_at_ns=part.captured_at_ns,
        latency_ms=latency_ms,
        near_miss=max(row.near_miss for row in rows),
        error=errors,
        fallbacks=sum(row.fallbacks for row in rows),
        cache_hits=sum(row.cache_hits for row in rows),
        views=tuple(_view(row) for row in rows),
    )


def _with_id_faults(row: ResultRow, ids: Sequence[str]) -> ResultRow:
    """Returns a view; one whose readings contradict the id that another camera has read never passes."""
    readings = with_id_faults(row.readings, row.part_id, ids)
    wrong = [new for old, new in zip(row.readings, readings, strict=True) if new is not old]
    if not wrong:
        return row
    why = "; ".join(filter(None, [row.error, *(f"{one.name} {one.text}: {one.error}" for one in wrong)]))
    verdict = "fault" if row.verdict == "pass" else row.verdict
    return msgspec.structs.replace(row, verdict=verdict, error=why, readings=readings)


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
