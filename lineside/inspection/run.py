"""Inspect a source to its end; frames that cannot be read are reported and counted."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator

from lineside.inspection.agent_inspector import AgentInspector
from lineside.inspection.drawing import Drawer
from lineside.inspection.sources import FrameSource
from lineside_models.inspection import Inspection
from lineside_models.vision import ExaminedImage, ImageInspector
from lineside_runtime.errors import LinesideError


@dataclasses.dataclass(slots=True)
class InspectionCounts:
    """Counts of frames.

    Attributes:
        inspected: Frames with a verdict.
        rejected: Inspected frames that did not pass.
        unsure: Rejected frames with the verdict unsure.
        unreadable: Photos that could not be read, and frames that a camera lost.
        interrupted: Whether Ctrl-C ended the run.
    """

    inspected: int = 0
    rejected: int = 0
    unsure: int = 0
    unreadable: int = 0
    interrupted: bool = False


def inspect_source(
    inspector: ImageInspector | AgentInspector,
    source: FrameSource,
    drawer: Drawer,
    *,
    on_verdict: Callable[[Inspection], object],
    on_unreadable: Callable[[str, LinesideError | str], object],
) -> InspectionCounts:
    """Inspects a source to its end, or until Ctrl-C.

    Args:
        on_verdict: Called with each verdict, in the order of the frames.
        on_unreadable: Called with the source and the reason of a frame that could not be read.

    Returns:
        The counts, also after an interruption.

    Raises:
        LinesideError: An error of the engine, the camera or the drawing; not of a single photo.
    """
    counts, lost = InspectionCounts(), 0
    try:
        for each in _examined(inspector, source):
            with _uninterrupted():
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


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Lets Ctrl-C wait until the end: a frame that is counted is also told. A second Ctrl-C does not wait.

    Only where Ctrl-C raises ``KeyboardInterrupt``, as Python has it by default in its main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pressed: list[int] = []

    def wait(number: int, _: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what is told may wait for a reader for ever

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


def _examined(inspector: ImageInspector | AgentInspector, source: FrameSource) -> Iterator[ExaminedImage]:
    if not source.live:
        yield from inspector.examine(source.images)
        return
    for image in source.images:  # one by one: the next frame may take long
        yield from inspector.examine(image)
