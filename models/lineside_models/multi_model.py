"""`MultiModelInspector`: several models inspect one frame, one after the other, and give one verdict.

A model takes the whole frame, or each box that a model before it has found::

    find ─ boxes ─► inspect ─ boxes ─► classify        surface
                                           └──► verdict ◄──┘

- A model whose boxes another one inspects judges nothing: its boxes are places to look at, those of which it is unsure
  included.
- The models that judge give one verdict: bad if one finds a defect, else unsure if one is unsure, else good.
- Boxes, measured values and marks are in pixels of the whole frame.
- A part id that a model has read is the part's, and the later models find expected values by it; if two read different
  ones, the part is a fault.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from lineside_models.frame import Frame
from lineside_models.identification.mark_reading import MarkReading
from lineside_models.identification.part_ids import read_ids, with_id_faults
from lineside_models.inspection import Detection, Inspection, Timings, Verdict
from lineside_models.inspector import Inspector
from lineside_models.metrology.measurement import Measurement
from lineside_runtime.bundle import ModelEntry
from lineside_runtime.errors import PartNotFoundError

DETECTIONS_MAX = 4096
"""Detections of a verdict; further ones, with lower scores, are left out."""

SMOOTHING = 0.1
"""Weight of the last frame in the moving mean of a model's time."""


class NamedInspector(NamedTuple):
    """One model of a bundle, loaded.

    Attributes:
        inspector: With the rules of this model.
    """

    entry: ModelEntry
    inspector: Inspector


class _Place(NamedTuple):
    """A part of the frame, and where it begins in it."""

    frame: Frame
    x: int
    y: int


class MultiModelInspector:
    """Inspects frames with several models; thread-safe.

    Attributes:
        models: In the order in which they run.

    Args:
        identity: ``name@version`` of the bundle that holds them.
    """

    def __init__(self, identity: str, models: Sequence[NamedInspector]) -> None:
        self._identity = identity
        self.models = tuple(models)
        self._hands_on = {model.entry.of for model in models}
        self._lock = threading.Lock()
        self._service_ms: dict[str, float] = {}

    @property
    def service_ms(self) -> Mapping[str, float]:
        """Moving mean of each model's time for one frame with all of its boxes, in milliseconds, by its name."""
        with self._lock:
            return dict(self._service_ms)

    @property
    def thresholds(self) -> dict[str, float]:
        """Least score of a defect of each type; of a type of several models that of the last one."""
        return {label: bar for model in self.models for label, bar in model.inspector.thresholds.items()}

    def inspect(self, frame: Frame) -> Inspection:
        """Inspects one frame.

        Raises:
            PartNotFoundError: A model found fewer or more boxes than the next one takes.
            LinesideError: As `Inspector.inspect` of one of the models.
        """
        whole = _Place(frame, 0, 0)
        ids: list[str] = []
        found: dict[str, tuple[Detection, ...]] = {}
        judged: list[Inspection] = []
        all_: list[Inspection] = []
        last: list[Inspection] = []
        for entry, inspector in self.models:
            started_s = time.perf_counter()
            places = _places(whole, entry, found[entry.of]) if entry.of else [whole]
            read_id = ids[0] if len(ids) == 1 else frame.read_id
            frames = [dataclasses.replace(place.frame, read_id=read_id) for place in places]
            made = inspector.inspect_batch(frames, cut_out=bool(entry.of)) if places else []
            shifted = [_shifted(one, place) for one, place in zip(made, places, strict=True)]
            found[entry.name] = tuple(box for one in shifted for box in (*one.detections, *one.doubtful))
            all_ += shifted
            last += shifted[-1:]
            if entry.name not in self._hands_on:
                judged += shifted
            ids = read_ids(read for one in all_ for read in one.readings)
            self._note_time(entry.name, 1000 * (time.perf_counter() - started_s))
        checked = [
            msgspec.structs.replace(one, readings=with_id_faults(one.readings, one.part_id, ids)) for one in all_
        ]
        part_id = ids[0] if len(ids) == 1 else frame.read_id or frame.part_id
        return msgspec.structs.replace(_combined(self._identity, checked, judged, last), part_id=part_id)

    @property
    def reads_part_id(self) -> bool:
        """Whether a rule of any model reads the part's id."""
        return any(model.inspector.reads_part_id for model in self.models)

    @property
    def needs_part_id(self) -> bool:
        """Whether marks are compared with expected values of a part whose id no model reads."""
        return not self.reads_part_id and any(model.inspector.needs_part_id for model in self.models)

    def frame_problem(self, frame: Frame) -> str:
        """Returns why a frame can't show a part, as `Inspector.frame_problem` of a model that takes whole frames."""
        found = (model.inspector.frame_problem(frame) for model in self.models if not model.entry.of)
        return next(filter(None, found), "")

    def _note_time(self, name: str, took_ms: float) -> None:
        with self._lock:
            before = self._service_ms.get(name, took_ms)
            self._service_ms[name] = before + SMOOTHING * (took_ms - before)


def _places(whole: _Place, entry: ModelEntry, boxes: Sequence[Detection]) -> list[_Place]:
    """Returns the inputs of a model: each box with its margin, as an image that shares the frame's memory."""
    wanted = [box for box in boxes if not entry.types or box.type in entry.types]
    if not entry.boxes_min <= len(wanted) <= entry.boxes_max:
        kinds = f" ({', '.join(entry.types)})" if entry.types else ""
        raise PartNotFoundError(
            f"boxes of {entry.of} for {entry.name}{kinds}",
            expected=f"{entry.boxes_min} to {entry.boxes_max}",
            actual=len(wanted),
        )
    return [_crop(whole.frame, box.box, entry.margin) for box in wanted]


def _crop(frame: Frame, box: tuple[float, float, float, float], margin: float) -> _Place:
    height, width = frame.size
    x1, y1, x2, y2 = box
    wide, high = margin * (x2 - x1), margin * (y2 - y1)
    left = min(max(0, math.floor(x1 - wide)), width - 1)
    top = min(max(0, math.floor(y1 - high)), height - 1)
    right = max(left + 1, min(width, math.ceil(x2 + wide)))
    bottom = max(top + 1, min(height, math.ceil(y2 + high)))
    image = frame.image[top:bottom, left:right]
    return _Place(dataclasses.replace(frame, image=image), left, top)


def _shifted(one: Inspection, place: _Place) -> Inspection:
    """Returns the verdict on a part of the frame, in pixels of the whole frame."""
    if not (place.x or place.y):
        return one
    return msgspec.structs.replace(
        one,
        detections=tuple(_shifted_box(box, place) for box in one.detections),
        doubtful=tuple(_shifted_box(box, place) for box in one.doubtful),
        measurements=tuple(_shifted_line(value, place) for value in one.measurements),
        readings=tuple(_shifted_mark(mark, place) for mark in one.readings),
    )


def _shifted_box(found: Detection, place: _Place) -> Detection:
    x1, y1, x2, y2 = found.box
    return msgspec.structs.replace(
        found,
        box=(x1 + place.x, y1 + place.y, x2 + place.x, y2 + place.y),
        outline=tuple((x + place.x, y + place.y) for x, y in found.outline),
    )


def _shifted_line(value: Measurement, place: _Place) -> Measurement:
    x1, y1, x2, y2 = value.line
    return msgspec.structs.replace(value, line=(x1 + place.x, y1 + place.y, x2 + place.x, y2 + place.y))


def _shifted_mark(read: MarkReading, place: _Place) -> MarkReading:
    return msgspec.structs.replace(read, outline=tuple((x + place.x, y + place.y) for x, y in read.outline))


def _combined(
    identity: str, all_: Sequence[Inspection], judged: Sequence[Inspection], last: Sequence[Inspection]
) -> Inspection:
    """Returns the verdict of the models that judged, with the times and counts of all.

    Args:
        all_: Of every model and box; the first one is of the whole frame, as the first model takes it.
        last: One of each model that ran.
    """
    verdict = _verdict(all_, judged)
    return msgspec.structs.replace(
        all_[0],
        passed=verdict == "good",
        verdict=verdict,
        detections=_best(box for one in judged for box in one.detections),
        doubtful=_best(box for one in judged for box in one.doubtful),
        timings=Timings(
            preprocess_ms=sum(one.timings.preprocess_ms for one in all_),
            inference_ms=sum(one.timings.inference_ms for one in all_),
            postprocess_ms=sum(one.timings.postprocess_ms for one in all_),
        ),
        bundle=identity,
        requested_device="+".join(one.requested_device for one in last),
        used_device="+".join(one.used_device for one in last),
        fallbacks=sum(one.fallbacks for one in all_),
        cache_hits=sum(one.cache_hits for one in all_),
        near_miss=max((one.near_miss for one in judged), default=0.0),
        anomaly_score=max((one.anomaly_score for one in judged if one.anomaly_score is not None), default=None),
        probabilities=judged[0].probabilities if len(judged) == 1 else {},
        measurements=tuple(value for one in all_ for value in one.measurements),
        readings=tuple(read for one in all_ for read in one.readings),
        frame_problem=next((one.frame_problem for one in all_ if one.frame_problem), ""),
    )


def _verdict(all_: Sequence[Inspection], judged: Sequence[Inspection]) -> Verdict:
    """Returns the worst verdict; a value out of tolerance or a refused mark is bad whichever model's rules found it."""
    verdicts = {one.verdict for one in judged}
    if "bad" in verdicts or any(one.out_of_tolerance or one.refused for one in all_):
        return "bad"
    return "unsure" if "unsure" in verdicts or any(one.fault for one in all_) else "good"


def _best(boxes: Iterable[Detection]) -> tuple[Detection, ...]:
    return tuple(sorted(boxes, key=lambda box: -box.score)[:DETECTIONS_MAX])
