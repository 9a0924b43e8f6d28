"""Frames that thresholds are chosen on: bad parts of annotated data, and good parts of all sources."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lineside_converters.data.calibration_data import AnnotatedFrame, annotated_frame, own_labels, sample_frame
from lineside_converters.data.reference_frames import load_compared, refuse_single_frames
from lineside_converters.training.data.samples import DOMAINS, hold_out, part_of
from lineside_models.datasets import Dataset, Sample
from lineside_models.datasets.folds import groups_of, has_fold, parts_of
from lineside_models.frame import Frame
from lineside_models.labels import LABELS
from lineside_models.simulator import Kind, render
from lineside_models.vision.images import photo_files, read_image
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import InputNotFoundError

SIMULATOR_SEED = 3_000_017
"""Clean frames of the simulator begin here: neither training nor the optimizer's judging draws from this stream."""

Take = Literal["held", "all"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FrameRequest:
    """Where frames come from.

    Attributes:
        data: Folders of annotated images.
        take: ``held``: of frames that the bundle was trained on only those that its training held out, where its report
            tells which; ``all``: all of the fold.
        good: Folders of photos of good parts; a photo counts once, also where two folders or ``data`` have it.
        simulated: How many clean frames of the line simulator are good parts too, half strip and half boards.
        parts: Regular expression on an image's path in ``data`` that names its part, as for `groups_of`; empty: the
            board in DeepPCB's layout, else a column of ``folds.csv`` or the file's name.
    """

    data: Sequence[Path]
    fold: str
    take: Take = "held"
    good: Sequence[Path] = ()
    simulated: int = 0
    parts: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class FrameSet:
    """Frames to score.

    Attributes:
        makers: Each makes one frame with its truth.
        parts: Which part, board or tile each shows; frames of one part look alike.
        description: Which frames these are and what the model knew of them.
        boxed: Whether truths have boxes, so that finds can be right or wrong.
        notes: What a reader must know.
    """

    makers: tuple[Callable[[], AnnotatedFrame], ...]
    sources: tuple[str, ...]
    parts: tuple[str, ...]
    names: tuple[str, ...]
    description: str
    boxed: bool
    notes: tuple[str, ...]


def gather_frames(bundle: Bundle, request: FrameRequest) -> FrameSet:
    """Collects the frames; no image is read yet."""
    labels = bundle.manifest.labels
    if request.good or request.simulated:
        refuse_single_frames(bundle.manifest, "good photos and simulator frames")
    makers: list[Callable[[], AnnotatedFrame]] = []
    taken: set[Path] = set()
    sources: list[str] = []
    parts: list[str] = []
    descriptions, notes, boxed = [], [], True
    for folder in request.data:
        dataset = load_compared(folder, request.fold, bundle.manifest, with_clean=True)
        samples, words, note = _chosen(bundle, dataset, folder, request)
        descriptions.append(words)
        notes += note
        boxed &= dataset.boxed
        group_of = groups_of(folder, request.parts) if request.parts else parts_of(folder, dataset.name)
        for sample in samples:
            taken.add(sample.path.resolve())
            if bundle.manifest.task == "anomaly":
                makers.append(_of_any_type(sample, len(makers)))
            else:
                own_labels(sample, dataset, labels)  # an unknown type is said before any work
                makers.append(_of_sample(sample, dataset, labels, len(makers)))
            sources.append(folder.resolve().name)
            parts.append(f"{folder}:{group_of(sample)}")
    for folder in request.good:
        photos = [path for path in _good_photos(folder) if path.resolve() not in taken]
        taken |= {path.resolve() for path in photos}
        for path in photos:
            makers.append(_of_photo(path, len(makers)))
            sources.append(folder.name)
            parts.append(str(path))
    for number in range(request.simulated):
        makers.append(_of_simulator(number, len(makers)))
        sources.append("line simulator")
        parts.append(f"line simulator:{number}")
    if request.simulated and not set(LABELS) <= set(labels):
        notes.append("the simulator draws steel strip and bare boards, and this bundle was made for something else")
    names = tuple(sorted(set(sources)))
    return FrameSet(tuple(makers), tuple(sources), tuple(parts), names, "; ".join(descriptions), boxed, tuple(notes))


def _good_photos(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputNotFoundError(f"no folder of good parts at {folder}", action="Give a folder of photos.")
    return photo_files(folder)


def read(frames: FrameSet) -> Iterator[AnnotatedFrame]:
    """Yields the frames, one read after the other."""
    for make in frames.makers:
        yield make()


def _chosen(
    bundle: Bundle, dataset: Dataset, folder: Path, request: FrameRequest
) -> tuple[Sequence[Sample], str, list[str]]:
    """Returns the frames of one data set, their description, and notes."""
    everything, name = dataset.samples, folder.resolve().name
    is_stated, start = _training(bundle, {dataset.name, name})
    if request.fold not in ("train", "all") or (is_stated and start is None):
        return everything, f"all {len(everything)} frames of {name}, fold {request.fold}", []
    if start is None:
        of = f"all {len(everything)} frames of {name}, fold {request.fold}"
        of += "; the bundle doesn't say what it was trained on"
        return everything, of, [f"{name}: if the bundle was trained on these frames, its scores on them are too good"]
    share = float(start.get("held_share", 0.0))
    if request.take == "held" and request.fold == "train" and share and has_fold(folder, "train"):
        group_of = part_of if dataset.name in DOMAINS else groups_of(folder, str(start.get("group", "")))
        held, _ = hold_out(everything, share=share, group_of=group_of, number=start.get("held_number"))
        of = f"{len(held)} of {len(everything)} frames of {name}, fold train: those that training held out"
        return held, of, [f"{name}: training chose its checkpoint and calibrated its scores on these frames"]
    of = f"all {len(everything)} frames of {name}, fold {request.fold}, which the bundle was trained on"
    note = (
        f"{name}: the bundle was trained on these frames: its scores on them are too good, so that thresholds come out"
    )
    return everything, of, [f"{note} too high and transfer badly"]


def was_trained_on(bundle: Bundle, folder: Path) -> bool:
    """Returns whether the bundle's report names a folder of this name among those that it was trained on."""
    return _training(bundle, {folder.resolve().name})[1] is not None


def _training(bundle: Bundle, names: set[str]) -> tuple[bool, dict[str, Any] | None]:
    """Returns whether the bundle's report describes its training, and the last start that read one of these folders."""
    if "report.json" not in bundle.manifest.files:
        return False, None
    training = json.loads(bundle.file("report.json").read_bytes()).get("training") or {}
    starts = training.get("starts") or []
    mine = [start for start in starts if names & {Path(folder).name for folder in start.get("data", ())}]
    if len({start.get("held_share", 0.0) for start in mine}) > 1:  # what one start held out another has learnt from
        return True, {**mine[-1], "held_share": 0.0}
    return bool(starts), mine[-1] if mine else None


def _of_sample(sample: Sample, dataset: Dataset, labels: Sequence[str], number: int) -> Callable[[], AnnotatedFrame]:
    return lambda: annotated_frame(sample, labels, number, dataset)


def _of_any_type(sample: Sample, number: int) -> Callable[[], AnnotatedFrame]:
    """Returns the frame for a model of good parts, which has one label for whatever is wrong."""
    return lambda: AnnotatedFrame(sample_frame(sample, number), sample.boxes, np.zeros(len(sample.labels), np.int64))


def _of_photo(path: Path, number: int) -> Callable[[], AnnotatedFrame]:
    return lambda: _good(Frame(image=read_image(path), source=str(path.parent), sequence=number, part_id=path.stem))


def _of_simulator(index: int, number: int) -> Callable[[], AnnotatedFrame]:
    kind: Kind = "steel" if index % 2 == 0 else "pcb"

    def make() -> AnnotatedFrame:
        drawn = render(kind, SIMULATOR_SEED + index, defects=0)
        return _good(Frame(image=drawn.image, source="simulator", sequence=number, part_id=f"{kind}-{drawn.seed}"))

    return make


def _good(frame: Frame) -> AnnotatedFrame:
    return AnnotatedFrame(frame, np.empty((0, 4), np.float32), np.empty(0, np.int64))
