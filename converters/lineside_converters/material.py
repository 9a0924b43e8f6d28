"""The frames that a model is calibrated and judged on, and where they come from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lineside_models.datasets import Sample, load_dataset
from lineside_models.frame import Frame
from lineside_models.labels import LABELS
from lineside_models.simulator import stream
from lineside_models.vision.images import frames as read_frames
from lineside_models.vision.images import read_image
from lineside_runtime.errors import BadInputFormatError, CalibrationError, InputNotFoundError

SIMULATOR_SEED = 2_000_003
"""Neither training (1,000,000 and up, frame by frame) nor the demo draws from this stream."""

SIMULATED_CALIBRATION = 24
SIMULATED_JUDGED = 40
DATA_JUDGED = 120
"""Annotated frames that accuracy is compared on. Both models see the same ones, so that their difference needs fewer
than either figure alone; `lineside evaluate` takes all."""


@dataclasses.dataclass(frozen=True, slots=True)
class TrueFrame:
    """A frame and what is truly in it.

    Attributes:
        frame: The image.
        boxes: ``(N, 4) float32``, ``x1, y1, x2, y2`` in pixels, x2 and y2 exclusive.
        labels: ``(N,) int64``, indices into the model's own labels.
    """

    frame: Frame
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def without_picture(self) -> TrueFrame:
        """Returns the truth alone, with one pixel for a picture, so that a long evaluation holds no pictures."""
        pixel = dataclasses.replace(self.frame, image=np.zeros((1, 1), np.uint8))
        return TrueFrame(pixel, self.boxes, self.labels)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What one run of the `Optimizer` works with.

    Attributes:
        calibration: Frames to calibrate on and to compare outputs on.
        calibration_source: Where they come from, for people.
        judged: Annotated frames; empty if the model's labels are none that anybody here has drawn or annotated.
        judged_source: Where they come from, for people; empty if there are none.
        simulated_truth: Whether accuracy can only be measured on drawn frames.
    """

    calibration: tuple[Frame, ...]
    calibration_source: str
    judged: tuple[TrueFrame, ...]
    judged_source: str
    simulated_truth: bool


def gather(
    *,
    labels: Sequence[str],
    limit: int,
    frames: Iterable[Frame] | Path | None = None,
    data: Sequence[Path] = (),
    fold: str = "train",
) -> Material:
    """Collects the frames that a caller gave, or draws some.

    Calibration frames are ``frames`` if given, else images of ``data``, else the simulator's. Accuracy is compared on
    other images of ``data`` if given, else on the simulator's.

    Args:
        labels: The model's.
        limit: How many frames at most are calibrated on.
        frames: Frames of the line, or a folder of photos.
        data: Folders that `lineside_models.datasets` knows; each gives its share.
        fold: Of the data.

    Raises:
        CalibrationError: What was given holds no usable frame.
        InputNotFoundError: There is no such data folder.
        DatasetError: The data folder is of no known layout, or damaged.
    """
    calibration, source = _given(frames, limit) if frames is not None else ([], "")
    judged, judged_source = _drawn(labels)
    if data:
        judged, taken, where = _annotated(labels, data, fold, 0 if frames is not None else limit)
        judged_source = f"{len(judged)} frames of {where}"
        if frames is None:
            calibration, source = taken, f"{len(taken)} frames of {where}"
    if not calibration:
        drawn = itertools.islice(stream(SIMULATOR_SEED + 1), min(limit, SIMULATED_CALIBRATION))
        calibration = [Frame(image=frame.image, source="simulator", sequence=i) for i, frame in enumerate(drawn)]
        source = f"{len(calibration)} frames of the line simulator"
    return Material(
        calibration=tuple(calibration),
        calibration_source=source,
        judged=tuple(judged),
        judged_source=judged_source,
        simulated_truth=not data,
    )


def _annotated(
    labels: Sequence[str], data: Sequence[Path], fold: str, limit: int
) -> tuple[list[TrueFrame], list[Frame], str]:
    """Returns frames to judge on, frames to calibrate on, and their source."""
    judged: list[TrueFrame] = []
    calibration: list[Frame] = []
    for folder in data:
        samples = load_dataset(folder, fold).samples
        size = min(-(-limit // len(data)), max(1, len(samples) // 2)) if limit else 0
        taken, rest = _split(samples, size, -(-DATA_JUDGED // len(data)))
        calibration += [sample_frame(sample, len(calibration) + number) for number, sample in enumerate(taken)]
        judged += [true_frame(sample, labels, len(judged) + number) for number, sample in enumerate(rest)]
    return judged, calibration, f"{' and '.join(folder.name for folder in data)}, fold {fold}"


def _given(frames: Iterable[Frame] | Path, limit: int) -> tuple[list[Frame], str]:
    source = f"photos of {Path(frames).name}" if isinstance(frames, (str, Path)) else "frames given by the caller"
    try:
        found = list(read_frames(frames))
    except (BadInputFormatError, InputNotFoundError) as error:
        raise CalibrationError(
            f"the calibration frames cannot be used: {error.message}", action=error.action
        ) from error
    if not found:
        raise CalibrationError("no calibration frames were given", action="Give some, or None for the simulator's.")
    chosen = _spread(found, limit)
    return chosen, f"{len(chosen)} {source}"


def _spread(items: list[Frame], count: int) -> list[Frame]:
    """Returns at most ``count`` items, evenly spread, in their order."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def _split(samples: Sequence[Sample], first: int, second: int) -> tuple[list[Sample], list[Sample]]:
    """Returns ``first`` samples spread over all, and at most ``second`` of the others likewise spread."""
    taken = {number * len(samples) // first for number in range(first)} if first else set()
    rest = [number for number in range(len(samples)) if number not in taken]
    second = min(second, len(rest))
    others = [rest[number * len(rest) // second] for number in range(second)] if second else sorted(taken)
    return [samples[number] for number in sorted(taken)], [samples[number] for number in others]


def _drawn(labels: Sequence[str]) -> tuple[list[TrueFrame], str]:
    if not set(LABELS) <= set(labels):
        return [], ""
    judged = []
    for number, drawn in enumerate(itertools.islice(stream(SIMULATOR_SEED), SIMULATED_JUDGED)):
        frame = Frame(image=drawn.image, source="simulator", sequence=number, part_id=f"{drawn.kind}-{drawn.seed}")
        judged.append(TrueFrame(frame, drawn.boxes, _as_own(drawn.labels, labels)))
    return judged, f"{len(judged)} frames of the line simulator"


def _as_own(indices: npt.NDArray[np.int64], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array([labels.index(LABELS[index]) for index in indices], np.int64)


def sample_frame(sample: Sample, sequence: int) -> Frame:
    """Reads the image of a data set's sample.

    Raises:
        BadInputFormatError: The file is no image.
    """
    folder = sample.path.parent.name
    return Frame(image=read_image(sample.path), source=folder, sequence=sequence, part_id=sample.part_id)


def true_frame(sample: Sample, labels: Sequence[str], sequence: int) -> TrueFrame:
    """Reads a data set's sample with its truth, as far as the model knows the types.

    Raises:
        CalibrationError: The model doesn't know a type that the sample shows.
        BadInputFormatError: The file is no image.
    """
    unknown = {LABELS[index] for index in sample.labels} - set(labels)
    if unknown:
        raise CalibrationError(
            f"{sample.path.name} shows {sorted(unknown)}, which the model doesn't know",
            expected=f"types of {list(labels)}",
            action="Give data of the model's own types.",
        )
    return TrueFrame(sample_frame(sample, sequence), sample.boxes, _as_own(sample.labels, labels))
