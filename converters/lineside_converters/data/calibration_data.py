"""Inputs for calibration and evaluation, and where they come from.

Three parts that share no frame: choices are made on the first two, and only what is shipped is judged on the last.

- calibration: inputs that ranges are taken from and outputs are compared on;
- tuning: annotated frames on which it is decided which layers stay in float;
- judged: annotated frames of the figures.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from lineside_converters.data.reference_frames import composed_image, load_compared, refuse_single_frames
from lineside_converters.pixel_metrics import Mask
from lineside_converters.quantization.static import Feed
from lineside_converters.tasks import is_segmenter
from lineside_models.datasets import Dataset, Sample, masks
from lineside_models.datasets.base import ALL, evenly_spread
from lineside_models.datasets.folds import in_fold
from lineside_models.frame import Frame
from lineside_models.labels import LABELS
from lineside_models.preprocess import prepare
from lineside_models.simulator import SimulatedFrame, stream
from lineside_models.vision.images import frames as read_frames
from lineside_models.vision.images import read_image
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import BadInputFormatError, CalibrationError, InputNotFoundError
from lineside_runtime.tensors import Array
from lineside_runtime.wording import counted

SIMULATOR_SEED = 2_000_003
"""Neither training (1,000,000 and up, frame by frame) nor the demo draws from this stream."""

SIMULATED_CALIBRATION = 24
SIMULATED_JUDGED = 40
DATA_JUDGED = 1000
"""Annotated frames at most that accuracy is compared on. Both models see the same ones, so that their difference needs
fewer than either figure alone; `lineside evaluate` takes all."""


@dataclasses.dataclass(frozen=True, slots=True)
class AnnotatedFrame:
    """A frame with its annotations.

    Attributes:
        boxes: ``(N, 4) float32``, ``x1, y1, x2, y2`` in pixels, x2 and y2 exclusive; none where the whole frame has one
            type.
        labels: ``(N,) int64``, indices into the model's own labels.
        mask: ``(H, W)``, the class of each pixel: 0 for nothing, k + 1 for the model's k-th label; ``None`` where
            nobody has drawn one.
    """

    frame: Frame
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    mask: Mask | None = None

    def without_image(self) -> AnnotatedFrame:
        """Returns the frame with one pixel for an image, so that a long evaluation holds no images."""
        pixel = dataclasses.replace(self.frame, image=np.zeros((1, 1), np.uint8))
        return AnnotatedFrame(pixel, self.boxes, self.labels)


class AnnotatedFrames(Sequence[AnnotatedFrame]):
    """Annotated frames whose images are read at each access, so that thousands need no memory."""

    def __init__(self, makers: Sequence[Callable[[], AnnotatedFrame]] = ()) -> None:
        self._makers = tuple(makers)

    def __len__(self) -> int:
        return len(self._makers)

    @overload
    def __getitem__(self, index: int) -> AnnotatedFrame: ...
    @overload
    def __getitem__(self, index: slice) -> AnnotatedFrames: ...
    def __getitem__(self, index: int | slice) -> AnnotatedFrame | AnnotatedFrames:
        return AnnotatedFrames(self._makers[index]) if isinstance(index, slice) else self._makers[index]()

    def __add__(self, other: AnnotatedFrames) -> AnnotatedFrames:
        return AnnotatedFrames(self._makers + other._makers)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputs:
    """Inputs of one run: for calibration, tuning and evaluation.

    Attributes:
        calibration: Inputs to calibrate on and to compare outputs on.
        calibration_source: Where they come from, for people.
        tuning: Annotated frames that may be chosen on; empty if there are none.
        evaluation: Annotated frames that accuracy is judged on; empty if there are none of the model's types.
        evaluation_source: Where they come from, for people; empty if there are none.
        evaluation_files: Their images, where they lie in files.
        simulated_truth: Whether accuracy can only be measured on drawn frames.
        masks: Whether the annotated frames have masks, which a segmenter is judged by.
        drawn_for_other_labels: Whether calibration inputs are the line simulator's although the model has other types.
        tuning_metric: Measure that float layers are chosen by where the inputs are no frames; ``None`` without one.
        tuning_hash: Hash of what that measure takes for true.
    """

    calibration: tuple[Feed, ...]
    calibration_source: str
    tuning: Sequence[AnnotatedFrame]
    evaluation: Sequence[AnnotatedFrame]
    evaluation_source: str
    simulated_truth: bool
    evaluation_files: frozenset[Path] = frozenset()
    masks: bool = False
    drawn_for_other_labels: bool = False
    tuning_metric: Callable[[Callable[[Feed], dict[str, Array]]], Sequence[float]] | None = None
    tuning_hash: str = ""


def gather_inputs(
    manifest: Manifest,
    *,
    limit: int,
    frames: object = None,
    data: Sequence[Path] = (),
    fold: str = "train",
    judge_fold: str | None = None,
    drawn_folds: Mapping[Path, Path] = MappingProxyType({}),
) -> ModelInputs:
    """Collects the inputs that a caller gave, else images of the data, else the line simulator's.

    Calibration inputs are ``frames`` if given, else images of ``data``, else the simulator's. Accuracy is compared on
    other images of ``data`` if given, those of ``judge_fold`` or else of ``fold``; else on the simulator's.

    Args:
        limit: How many inputs at most are calibrated on.
        frames: Frames of the line, images, a folder of photos, or the model's own inputs: arrays, or dictionaries of
            arrays by input name.
        data: Folders that `lineside_models.datasets` knows; each gives its share.
        fold: Fold of the data to calibrate and to choose on.
        judge_fold: Fold of the data to judge on; a folder without any folds gives other frames than those of ``fold``.
        drawn_folds: For folders of ``data`` without folds, the tables of those that the model's training drew.

    Raises:
        CalibrationError: No usable input, no frame left to judge on, or nothing given for a model that takes no image.
        ConfigError: The model compares with references, and frames without them are to be used.
        InputNotFoundError: There is no such data folder.
        DatasetError: The data folder is of no known layout, or damaged.
    """
    calibration: list[Feed] = []
    source, tuning, files = "", AnnotatedFrames(), frozenset[Path]()
    if frames is not None or not data:
        refuse_single_frames(manifest, "simulator frames" if frames is None else "the frames given")
    if frames is not None:
        calibration, source = _given(frames, manifest, limit)
    if not data:
        judged, evaluation_source = _drawn(manifest.labels, SIMULATOR_SEED, SIMULATED_JUDGED)
    else:
        tuning, judged, files = _annotated(manifest, data, (fold, judge_fold or fold), limit, drawn_folds)
        names = " and ".join(folder.name for folder in data)
        evaluation_source = f"{len(judged)} frames of {names}, fold {judge_fold or fold}"
        if frames is None:
            calibration = [feed_of(one.frame, manifest) for one in tuning]
            source = f"{len(calibration)} frames of {names}, fold {fold}"
    simulated = not calibration
    if simulated:
        tuning, drawn, source = _simulated(manifest, min(limit, SIMULATED_CALIBRATION))
        calibration = [feed_of(frame, manifest) for frame in drawn]
    return ModelInputs(
        calibration=tuple(calibration),
        calibration_source=source,
        tuning=tuning,
        evaluation=judged,
        evaluation_source=evaluation_source,
        evaluation_files=files,
        simulated_truth=not data,
        masks=bool(data) and all(has_masks(folder, manifest) for folder in data),
        drawn_for_other_labels=simulated and not set(LABELS) <= set(manifest.labels),
    )


def hash_annotations(frames: Sequence[AnnotatedFrame]) -> str:
    """Returns the sha256 over images and annotations of frames, hexadecimal."""
    digest = hashlib.sha256()
    for one in frames:
        for array in (one.frame.image, one.boxes, one.labels, one.mask):
            digest.update(repr(None if array is None else (array.shape, str(array.dtype))).encode())
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def has_masks(folder: Path, manifest: Manifest) -> bool:
    """Returns whether a segmenter can be compared with masks in this folder."""
    return is_segmenter(manifest) and folder.is_dir() and masks.is_one(folder)


def feed_of(frame: Frame, manifest: Manifest) -> Feed:
    """Prepares a frame as the model's input, by input name."""
    how = manifest.preprocess
    return {how.input: prepare(frame.image, how)[0]}


def _simulated(manifest: Manifest, count: int) -> tuple[AnnotatedFrames, list[Frame], str]:
    if manifest.preprocess.colour == "none":
        raise CalibrationError(
            f"{manifest.name} takes no image, so that nothing can be drawn for it",
            action="Give inputs to calibrate on: frames=[{'input name': array, …}, …].",
        )
    drawn = itertools.islice(stream(SIMULATOR_SEED + 1), count)
    pictures = [Frame(image=one.image, source="simulator", sequence=number) for number, one in enumerate(drawn)]
    tuning, _ = _drawn(manifest.labels, SIMULATOR_SEED + 1, count)
    return tuning, pictures, f"{len(pictures)} frames of the line simulator"


def _annotated(
    manifest: Manifest,
    data: Sequence[Path],
    folds: tuple[str, str],
    limit: int,
    drawn_folds: Mapping[Path, Path],
) -> tuple[AnnotatedFrames, AnnotatedFrames, frozenset[Path]]:
    """Returns frames to calibrate and choose on, frames to judge on, and the files of those."""
    fold, judge_fold = folds
    read = partial(_read, manifest=manifest, drawn_folds=drawn_folds)
    tuning, judged, files = AnnotatedFrames(), AnnotatedFrames(), set[Path]()
    most, most_judged = -(-limit // len(data)), -(-DATA_JUDGED // len(data))
    for folder in data:
        dataset, drawn = read(folder, fold)
        samples = dataset.samples
        taken, rest = _split(samples, min(most, max(1, len(samples) // 2)), most_judged)
        tuning += _lazily(taken, dataset, manifest.labels, len(tuning), drawn)
        if judge_fold != fold:
            dataset, drawn = read(folder, judge_fold)
            seen = {sample.path for sample in taken}  # a folder without folds gives the same ones for every name
            _, rest = _split([one for one in dataset.samples if one.path not in seen], 0, most_judged)
        if not rest:
            raise CalibrationError(
                f"no frame of {folder} is left to judge on",
                expected=f"frames of fold {judge_fold!r} beside those that are calibrated on",
                actual=f"{counted(len(taken), 'frame')} to calibrate on",
                action="Give more annotated frames, or another judge_fold (--judge-fold).",
            )
        judged += _lazily(rest, dataset, manifest.labels, len(judged), drawn)
        files |= {sample.path for sample in rest}
    return tuning, judged, frozenset(files)


def _read(
    folder: Path, fold: str, manifest: Manifest, drawn_folds: Mapping[Path, Path]
) -> tuple[Dataset, masks.MaskDataset | None]:
    table = drawn_folds.get(folder) if fold != ALL else None
    stored = fold if table is None else ALL
    drawn = masks.load_masks(folder, stored) if has_masks(folder, manifest) else None
    dataset = load_compared(folder, stored, manifest) if drawn is None else masks.boxes_of(drawn)
    if table is not None:
        dataset = dataclasses.replace(dataset, samples=in_fold(dataset.samples, folder, table, fold))
    return dataset, drawn


def _lazily(
    samples: Sequence[Sample],
    dataset: Dataset,
    labels: Sequence[str],
    first: int,
    drawn: masks.MaskDataset | None,
) -> AnnotatedFrames:
    for sample in samples:
        own_labels(sample, dataset, labels)  # an unknown type is said before any work

    shown = {} if drawn is None else {sample.path: partial(drawn.mask_for, sample, labels) for sample in drawn.samples}
    return AnnotatedFrames(
        [
            partial(annotated_frame, sample, labels, first + number, dataset, shown.get(sample.path))
            for number, sample in enumerate(samples)
        ]
    )


def _given(frames: object, manifest: Manifest, limit: int) -> tuple[list[Feed], str]:
    source = f"photos of {Path(frames).name}" if isinstance(frames, (str, Path)) else "frames given by the caller"
    try:
        found = list(_feeds(frames, manifest))
    except (BadInputFormatError, InputNotFoundError) as error:
        raise CalibrationError(
            f"the calibration frames cannot be used: {error.message}",
            expected=error.expected,
            actual=error.actual,
            action=error.action,
        ) from error
    if not found:
        raise CalibrationError("no calibration frames were given", action="Give some, or None for the simulator's.")
    chosen = evenly_spread(found, limit)
    return [make() for make in chosen], f"{len(chosen)} {source}"


def _feeds(frames: Any, manifest: Manifest) -> Iterable[Callable[[], Feed]]:
    """Yields functions that make the model's input, so that only chosen frames are prepared."""
    if isinstance(frames, (str, Path, Frame, np.ndarray)):
        frames = [frames]
    for item in itertools.chain.from_iterable(_items(one) for one in frames):
        if isinstance(item, Frame):
            yield partial(feed_of, item, manifest)
        else:
            _check_feed(item, manifest)
            yield partial(dict, item)


def _items(item: object) -> Iterable[Frame | Feed]:
    if isinstance(item, Mapping):
        return [dict(item)]
    if isinstance(item, np.ndarray) and item.dtype != np.uint8:
        return [{"": item}]
    return read_frames(item)  # type: ignore[arg-type]  # it refuses what it doesn't know


def _check_feed(feed: Any, manifest: Manifest) -> None:
    """Names a bare array after the model's only input, and checks every array against the model's inputs."""
    if list(feed) == [""] and len(manifest.inputs) == 1:
        feed[manifest.inputs[0].name] = feed.pop("")
    wanted = {spec.name: spec for spec in manifest.inputs}
    if set(feed) != set(wanted):
        raise BadInputFormatError("inputs of the model", expected=sorted(wanted), actual=sorted(feed))
    for name, array in feed.items():
        wanted[name].check(array)


def _split(samples: Sequence[Sample], first: int, second: int) -> tuple[list[Sample], list[Sample]]:
    """Returns ``first`` samples spread over all, and at most ``second`` of the others likewise spread."""
    taken = evenly_spread(range(len(samples)), first)
    rest = sorted(set(range(len(samples))) - set(taken))
    others = evenly_spread(rest, second)
    return [samples[number] for number in taken], [samples[number] for number in others]


def _drawn(labels: Sequence[str], seed: int, count: int) -> tuple[AnnotatedFrames, str]:
    if not set(LABELS) <= set(labels):
        return AnnotatedFrames(), ""
    frames = [_simulated_truth(drawn, labels, n) for n, drawn in enumerate(itertools.islice(stream(seed), count))]
    return AnnotatedFrames([partial(_itself, frame) for frame in frames]), f"{len(frames)} frames of the line simulator"


def _itself(frame: AnnotatedFrame) -> AnnotatedFrame:
    return frame


def _simulated_truth(drawn: SimulatedFrame, labels: Sequence[str], number: int) -> AnnotatedFrame:
    frame = Frame(image=drawn.image, source="simulator", sequence=number, part_id=f"{drawn.kind}-{drawn.seed}")
    own = np.array([labels.index(LABELS[index]) for index in drawn.labels], np.int64)
    return AnnotatedFrame(frame, drawn.boxes, own)


def sample_frame(sample: Sample, sequence: int) -> Frame:
    """Reads the image of a data set's sample as a frame, composed with its reference if it names one.

    Raises:
        BadInputFormatError: The file is no image.
    """
    image = read_image(sample.path) if sample.reference is None else composed_image(sample)
    return Frame(image=image, source=sample.path.parent.name, sequence=sequence, part_id=sample.part_id)


def annotated_frame(
    sample: Sample,
    labels: Sequence[str],
    sequence: int,
    dataset: Dataset | None = None,
    read_mask: Callable[[], Mask] | None = None,
) -> AnnotatedFrame:
    """Reads a data set's sample with its annotations, as far as the model knows the types.

    Args:
        dataset: Where the sample is from; its labels are lineside's own if ``None``.
        read_mask: Reads the sample's mask; ``None`` where there is none.

    Raises:
        CalibrationError: The model doesn't know a type that the sample shows.
        BadInputFormatError: The file is no image.
        DatasetError: The mask's file is damaged.
    """
    mask = None if read_mask is None else read_mask()
    return AnnotatedFrame(sample_frame(sample, sequence), sample.boxes, own_labels(sample, dataset, labels), mask)


def own_labels(sample: Sample, dataset: Dataset | None, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Returns a sample's types as indices into the model's labels.

    Raises:
        CalibrationError: The model doesn't know one.
    """
    if dataset is not None and dataset.numbered:
        unknown = {str(number) for number in sample.labels if number >= len(labels)}
        own = sample.labels
    else:
        names = [(dataset.vocabulary if dataset else LABELS)[index] for index in sample.labels]
        unknown = set(names) - set(labels)
        own = np.array([labels.index(name) for name in names if name in labels], np.int64)
    if unknown:
        raise CalibrationError(
            f"{sample.path.name} shows {sorted(unknown)}, which the model doesn't know",
            expected=f"types of {list(labels)[:20]}",
            action="Give data of the model's own types.",
        )
    return own
