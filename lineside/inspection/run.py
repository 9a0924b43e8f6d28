"""The walk over everything that is to be inspected: what can't be read is told and counted, and the rest goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from lineside.inspection.drawing import Drawer
from lineside.inspection.sources import FrameSource
from lineside_models.inspection import Inspection
from lineside_models.vision import ExaminedImage, ImageInspector
from lineside_runtime.errors import LinesideError


@dataclasses.dataclass(slots=True)
class InspectionCounts:
    """What became of the frames so far.

    Attributes:
        inspected: Frames with a verdict.
        rejected: Of them, those that did not pass.
        unsure: Of the rejected, those of which the verdict was unsure.
        unreadable: Photos that could not be read, and frames that a camera could not give.
        interrupted: Whether somebody pressed Ctrl-C before the end.
    """

    inspected: int = 0
    rejected: int = 0
    unsure: int = 0
    unreadable: int = 0
    interrupted: bool = False

    @property
    def total(self) -> int:
        """All frames."""
        return self.inspected + self.unreadable


def walk(
    inspector: ImageInspector,
    source: FrameSource,
    drawer: Drawer,
    *,
    on_verdict: Callable[[Inspection], object],
    on_unreadable: Callable[[str, LinesideError | str], object],
) -> InspectionCounts:
    """Inspects a source to its end, or until Ctrl-C.

    Args:
        inspector: Judges.
        source: Gives the frames.
        drawer: Draws the verdicts.
        on_verdict: Told each verdict, in the order of the frames.
        on_unreadable: Told what could not be read, and why.

    Returns:
        The counts; also when interrupted.

    Raises:
        LinesideError: Of the engine, the camera or the drawing; not of single photos.
    """
    counts, lost = InspectionCounts(), 0
    try:
        for each in _examined(inspector, source):
            for shot in source.lost[lost:]:
                on_unreadable(shot.part_id, shot.reason)
            lost = len(source.lost)
            if each.error is not None:
                counts.unreadable += 1
                on_unreadable(each.source, each.error)
            if each.frame is not None and each.inspection is not None:
                drawer.draw(each.frame, each.inspection, inspector.heat_map)
                counts.inspected += 1
                counts.rejected += not each.inspection.passed
                counts.unsure += each.inspection.verdict == "unsure"
                on_verdict(each.inspection)
    except KeyboardInterrupt:
        counts.interrupted = True
    for shot in source.lost[lost:]:
        on_unreadable(shot.part_id, shot.reason)
    counts.unreadable += len(source.lost)
    return counts


def _examined(inspector: ImageInspector, source: FrameSource) -> Iterator[ExaminedImage]:
    if not source.live:
        yield from inspector.examine(source.images)
        return
    for image in source.images:  # each at once: the next frame may be long in coming
        yield from inspector.examine(image)
