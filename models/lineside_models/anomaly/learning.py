"""Anomaly model of good frames, made on the device's own CPU: frames in, a bundle out.

::

    frames ─► features (INT8, shipped) ─► bank a scale ─► threshold (each part left out once) ─► model, golden, bundle

Nothing is trained by gradients: it takes seconds, and neither torch nor the onnx package.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from lineside_models.anomaly.bank import FeatureBank, entries_within, learn_bank
from lineside_models.anomaly.copy_paste import squared
from lineside_models.anomaly.coreset import Floats, Ints
from lineside_models.anomaly.defect_head import (
    GOOD_CELLS,
    TRUSTED,
    MarkedFeatures,
    MarkedFrame,
    MarkedHead,
    collect_marked,
    defect_cells,
    join,
    places,
    train_head,
)
from lineside_models.anomaly.defect_types import UNTYPED, TypeHead, fit_types
from lineside_models.anomaly.features import JUDGED, FrameFeatures, collect_features, features_bundle, lower_of
from lineside_models.anomaly.names import stride_of
from lineside_models.anomaly.threshold import AnomalyThreshold, fit_threshold
from lineside_models.frame import Frame, UInt8Array
from lineside_models.postprocess.decoders.anomaly import peak_of
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError

FRAMES_MIN = 10
"""With fewer, nothing can be said of how good parts differ."""

ENTRIES_A_FRAME = 8
"""Entries of a scale for each frame, from `ENTRIES_MIN` to `ENTRIES_MAX`."""

ENTRIES_MIN = 512
"""From 50 and 155 frames of magnetic-tile, judged on other tiles, 4096 entries were no better (with the features of
release 0.1)."""

ENTRIES_MAX = 4096
"""From 600 frames of magnetic-tile, judged on further frames of the same tiles, the AUROC was 0.035 higher than with
512 entries (with the features of release 0.1). The search then takes 0.28 G multiplications a frame."""

PEAK_CELLS = 3
"""A frame's distance at a scale is the mean of so many greatest cells (compared by the benchmark ``learn_good``)."""

QUANTILE = 0.99

VARIED = 0.94
"""Of `AnomalyModel.variation`. Drawn strip has 0.76 (all of its defects are found), tiles 0.90 to 0.93. Of eight kinds
of parts above it, learnt from 20 and from 50 frames, seven found at most 15 % of their bad parts and one all of them.
"""

UNEVEN = 0.25
"""Of `AnomalyModel.unevenness`; two kinds of parts mixed have 0.29 to 0.45, the sets above at most 0.23."""

_WIDE = (
    "the good parts differ widely (variation {:.2f}, unevenness {:.2f}; usual is below "
    f"{VARIED} and {UNEVEN}): defects will hardly stand out. Judge bad parts with --check, learn each kind of part by "
    "itself and in one light, or train on annotated defects"
)

PARTS_MIN = 25
"""With fewer parts the threshold is raised so far that many bad parts pass: the benchmark ``learn_good`` has 50 frames
of 7 to 9 tiles beside 155."""

HEAD_FOLDS = 3
"""Heads that are trained only to score good parts which they did not see."""

PASTED_ON = 64
"""Good frames, drawn at random, on which marked defects are pasted."""

_PAIRS = 4000


Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class LearningOptions:
    """Settings of learning from good parts.

    Attributes:
        bank_bytes: What all banks together may take; ``None`` for `ENTRIES_A_FRAME` of each scale.
        quantile: Share of good parts that are to stay below the threshold; above 0.5, below 1.
        mirror: Whether mirrored frames count as good as well. On magnetic-tile this lowers the AUROC on further frames
            of learned tiles by 0.01 and hardly changes it on other tiles.
        seed: Of what is drawn at random.
    """

    bank_bytes: int | None = None
    quantile: float = QUANTILE
    mirror: bool = False
    seed: int = 0
    threads: int = 1

    def check(self) -> None:
        """Checks every value.

        Raises:
            ConfigError: One is out of range.
        """
        channels = tuple(spec.shape[1] for spec in features_bundle().manifest.outputs)
        if self.bank_bytes is not None and entries_within(self.bank_bytes, channels) < 1:
            raise ConfigError("bank_bytes", expected="room for an entry a scale", actual=self.bank_bytes)
        if not 0.5 < self.quantile < 1:
            raise ConfigError("quantile", expected="above 0.5 and below 1", actual=self.quantile)
        if self.threads < 1:
            raise ConfigError("threads", expected="at least 1", actual=self.threads)
        if self.seed < 0:
            raise ConfigError("seed", expected="0 or more", actual=self.seed)


@dataclasses.dataclass(frozen=True, slots=True)
class AnomalyModel:
    """Model of good parts.

    Attributes:
        source: The bundle whose features were used.
        banks: One a scale.
        threshold: Threshold, and the map from distances to scores.
        frames: How many were learned from.
        suspects: Names of the frames that the model rejects if their part is left out: bad ones may be among them.
        peak_cells: Number of greatest cells whose mean is a frame's distance at a scale.
        added: Number of frames by which the model was extended, each time.
        head: Trained on marked bad frames, if there were any; it has the last of the threshold's gains and offsets.
        marked: Number of marked bad frames.
        types: Discriminants of the types of marked defects, if they have any.
        variation: How far the strangest place of a good frame is from all that other good frames show, in terms of how
            far two arbitrary places of good frames are from each other; a defect has to be stranger still.
        unevenness: How much that differs from frame to frame: its deviation as a share of its median.
        seconds: What it took, by step.
    """

    source: Bundle
    strides: tuple[int, ...]
    banks: tuple[FeatureBank, ...]
    threshold: AnomalyThreshold
    frames: int
    parts: int
    suspects: tuple[str, ...]
    variation: float
    unevenness: float
    seconds: dict[str, float]
    peak_cells: int = PEAK_CELLS
    added: tuple[int, ...] = ()
    head: MarkedHead | None = None
    marked: int = 0
    types: TypeHead | None = None

    @property
    def warning(self) -> str:
        """Warnings if there are few parts, or if they vary too much for defects to stand out; else empty."""
        warnings = []
        if self.parts < PARTS_MIN:
            warnings.append(
                f"{self.frames} frames of {self.parts} parts: the threshold is high, since so few parts say little of "
                f"others, and bad parts may pass; learn from {PARTS_MIN} parts or more"
            )
        if self.variation >= VARIED or self.unevenness >= UNEVEN:
            warnings.append(_WIDE.format(self.variation, self.unevenness))
        return "; ".join(warnings)

    @property
    def side(self) -> int:
        """Cells on a side of the finest map."""
        return self.source.manifest.outputs[0].shape[2]

    @property
    def bank_bytes(self) -> int:
        """Size of all banks."""
        return sum(bank.size_bytes for bank in self.banks)

    def sums(self, scales: tuple[Floats, ...]) -> Floats:
        """Returns each frame's sum over the maps, which `threshold` bounds.

        Args:
            scales: ``(looks, frames, cells, C)`` a scale, as in `FrameFeatures`.
        """
        return self.sums_of(self.maps(scales))

    def sums_of(self, maps: tuple[Floats, ...]) -> Floats:
        """Returns each frame's sum over its `maps`."""
        greatest = [[peak_of(one, self.peak_cells) for one in cells] for cells in maps]
        return np.asarray(np.sum(greatest, axis=0), np.float32)

    def maps(self, scales: tuple[Floats, ...]) -> tuple[Floats, ...]:
        """Returns the maps, ``(frames, cells)`` each, in standard deviations of good frames.

        Those of each cell's distance, one a scale; then that of the head, if there is one. Each is the lower one of the
        frame's and its mirror image's.

        Args:
            scales: ``(looks, frames, cells, C)`` a scale, as in `FrameFeatures`.
        """
        judged = tuple(cells[:JUDGED] for cells in scales)
        values = [
            bank.distances(cells.reshape(-1, cells.shape[-1])).reshape(cells.shape[:3])
            for bank, cells in zip(self.banks, judged, strict=True)
        ]
        if self.head is not None:
            values.append(self.head.values(joined(self.banks, judged)))
        scaled = zip(map(lower_of, values), self.threshold.gains, self.threshold.offsets, strict=True)
        return tuple(np.asarray(each * np.float32(gain) + np.float32(offset)) for each, gain, offset in scaled)


def learn(
    frames: Iterable[Frame],
    options: LearningOptions | None = None,
    *,
    marked: Iterable[MarkedFrame] = (),
    on_progress: Callable[[str], None] = lambda text: None,
) -> AnomalyModel:
    """Learns from good frames.

    Args:
        frames: Of good parts; in any sizes, though all in one is best. 50 are a good number. Frames of one ``part_id``
            show one part: they are left out together where the threshold is chosen, as a part on the line is one that
            was not learned. A frame without one is a part of its own.
        options: Settings; the default ones if not given.
        marked: Bad frames, and where their defects are: a head learns from them.
        on_progress: Told in words what is done.

    Raises:
        InputError: There are too few frames, or they all show the same.
        ConfigError: An option is out of range.
        BadInputFormatError: A frame holds no image.
        DeviceError: The features can't be computed here.
    """
    options = options or LearningOptions()
    options.check()
    started_s = time.perf_counter()
    known = list(marked)
    sample: list[UInt8Array] = []
    features = collect_features(
        _sampled(frames, sample, options.seed) if known else frames,
        mirror=options.mirror,
        threads=options.threads,
        pictures_min=FRAMES_MIN,
        on_progress=on_progress,
    )
    defects = collect_marked(known, sample, threads=options.threads, seed=options.seed)
    seconds = time.perf_counter() - started_s
    model = fit(features, options, marked=defects, on_progress=on_progress)
    return dataclasses.replace(model, seconds={"features": seconds, **model.seconds})


def _sampled(frames: Iterable[Frame], sample: list[UInt8Array], seed: int) -> Iterator[Frame]:
    """Yields frames, of which `PASTED_ON` drawn ones are in ``sample`` at the end, as the network sees them."""
    random, how = np.random.default_rng(seed), features_bundle().manifest.preprocess
    for number, frame in enumerate(frames):
        place = number if number < PASTED_ON else int(random.integers(number + 1))  # reservoir sampling
        if place < PASTED_ON:
            sample[place : place + 1] = [squared(frame.image, how)]
        yield frame


def fit(
    features: FrameFeatures,
    options: LearningOptions | None = None,
    *,
    marked: MarkedFeatures | None = None,
    banks: tuple[FeatureBank, ...] = (),
    on_progress: Callable[[str], None] = lambda text: None,
) -> AnomalyModel:
    """Fits banks and threshold to features of good frames.

    Args:
        options: Settings, of which ``mirror`` and ``threads`` have no effect here.
        banks: Of an earlier model of these features, which saves most of the time.
        on_progress: Told in words what is done.

    Raises:
        InputError: The frames all show the same.
        ConfigError: An option is out of range.
    """
    options = options or LearningOptions()
    options.check()
    parts, seconds = features.parts, {}
    entries = _entries(options, len(parts), tuple(cells.shape[-1] for cells in features.scales))
    started_s = time.perf_counter()
    banks = banks or tuple(_bank(cells, parts, entries, options.seed) for cells in features.learned)
    seconds["banks"] = time.perf_counter() - started_s
    on_progress(f"banks of {len(banks[0].entries)} entries")
    started_s = time.perf_counter()
    own, greatest = _left_out(features.scales, banks, parts)
    centres, spreads = np.median(own, axis=0), own.std(axis=0)
    apart = np.array([_apart(cells[0], bank, options.seed) for cells, bank in zip(features.scales, banks, strict=True)])
    seconds["bar"] = time.perf_counter() - started_s
    head, types, weights = None, None, [1.0] * len(banks)
    if marked is not None:
        started_s = time.perf_counter()
        head, peaks, types = _heads(features, banks, spreads, marked, options.seed)
        greatest = np.concatenate([greatest, peaks[:, None]], axis=1)
        weights.append(2.0 if marked.pasted is not None or len(marked.defects) >= TRUSTED else 1.0)
        seconds["head"] = time.perf_counter() - started_s
    threshold = fit_threshold(greatest, parts, options.quantile, weights=weights)
    above = np.asarray(threshold.left_out) >= threshold.value
    return AnomalyModel(
        source=features.source,
        strides=tuple(stride_of(spec.name) for spec in features.source.manifest.outputs),
        banks=banks,
        threshold=threshold,
        frames=len(parts),
        parts=int(parts.max()) + 1,
        suspects=tuple(name for name, one in zip(features.names, above, strict=True) if one),
        variation=float((centres / apart).mean()),
        unevenness=float((spreads / centres).max()),
        seconds=seconds,
        head=head,
        marked=0 if marked is None else len(marked.defects),
        types=types,
    )


def _heads(
    features: FrameFeatures, banks: tuple[FeatureBank, ...], spreads: Floats, marked: MarkedFeatures, seed: int
) -> tuple[MarkedHead, Floats, TypeHead | None]:
    """Returns the head, its peak of each good frame by a head that did not see its part, and the types' head."""
    bad_cells, boxed_cells, boxed_types = _defect_cells(banks, spreads, marked)
    if marked.pasted is not None:
        pasted = _defect_cells(banks, spreads, marked.pasted)[0]
        bad_cells = bad_cells * max(1, round(len(pasted) / len(bad_cells))) + pasted  # both count the same
    head, peaks = _head(features, banks, bad_cells, seed)
    types = fit_types(boxed_cells, boxed_types, marked.names) if marked.types is not None else None
    return head, peaks, types


def _defect_cells(
    banks: tuple[FeatureBank, ...], spreads: Floats, marked: MarkedFeatures
) -> tuple[list[Floats], list[Floats], list[Ints]]:
    """Returns joined features of each bad frame, ``(cells, C)``.

    They are those of the cells that the head learns as the defect, and those of all cells in boxes with their types.
    """
    bad, shown, types = [], [], []
    scales = tuple(cells[0] for cells in marked.features.scales)
    chosen_of = _chosen_cells(banks, spreads, scales, marked.defects)
    for number, (cells, chosen) in enumerate(zip(joined(banks, scales), chosen_of, strict=True)):
        boxed = marked.defects[number]
        bad.append(cells[chosen])
        named = np.flatnonzero(boxed) if boxed.any() else chosen
        shown.append(cells[named])
        types.append(np.full(len(named), UNTYPED) if marked.types is None else marked.types[number][named])
    return bad, shown, types


def _chosen_cells(
    banks: tuple[FeatureBank, ...], spreads: Floats, scales: tuple[Floats, ...], boxed: Bools
) -> list[Ints]:
    """Returns the cells of each frame that are taken as its defect, given those in boxes, ``(frames, cells)``."""
    strangeness = np.zeros(boxed.shape, np.float32)
    for bank, cells, spread in zip(banks, scales, spreads, strict=True):
        distances = bank.distances(cells.reshape(-1, cells.shape[-1])).reshape(cells.shape[:2]) / spread
        strangeness += distances[:, places(boxed.shape[1], cells.shape[1])]
    return [defect_cells(*each) for each in zip(boxed, strangeness, strict=True)]


def _head(
    features: FrameFeatures, banks: tuple[FeatureBank, ...], bad: list[Floats], seed: int
) -> tuple[MarkedHead, Floats]:
    """Trains the head; returns it and the peak of each good frame, by a head that was trained without its part."""
    good = joined(banks, tuple(cells[0] for cells in features.scales))
    judged = tuple(cells[:JUDGED] for cells in features.scales)
    parts, each = features.parts, max(1, GOOD_CELLS // len(good))
    drawn = np.random.default_rng(seed).integers(good.shape[1], size=(len(good), each))
    cells = np.take_along_axis(good, drawn[..., None], axis=1)

    def trained(frames: Bools) -> MarkedHead:
        return train_head(cells[frames].reshape(-1, cells.shape[-1]), bad, seed=seed)

    peaks = np.empty(len(good), np.float32)
    for fold in range(HEAD_FOLDS):
        mine = parts % HEAD_FOLDS == fold
        if mine.any():
            values = trained(~mine).values(joined(banks, tuple(cells[:, mine] for cells in judged)))
            peaks[mine] = [peak_of(one, PEAK_CELLS) for one in lower_of(values)]
    return trained(np.ones(len(good), np.bool_)), peaks


def joined(banks: tuple[FeatureBank, ...], scales: tuple[Floats, ...]) -> Floats:
    """Returns whitened features of all scales at each cell of the finest, ``(..., cells, C)``.

    Args:
        scales: ``(..., cells, C)`` a scale.
    """
    return join([bank.turned(cells) for bank, cells in zip(banks, scales, strict=True)])


def _entries(options: LearningOptions, frames: int, channels: tuple[int, ...]) -> int:
    if options.bank_bytes is None:
        return min(max(ENTRIES_A_FRAME * frames, ENTRIES_MIN), ENTRIES_MAX)
    return entries_within(options.bank_bytes, channels)


def _apart(cells: Floats, bank: FeatureBank, seed: int) -> float:
    """Returns the median distance of random pairs of cells of good frames."""
    flat = cells.reshape(-1, cells.shape[-1])
    pairs = np.random.default_rng(seed).integers(0, len(flat), (2, _PAIRS))
    one, two = (flat[numbers] @ bank.whiten for numbers in pairs)
    return float(np.median(np.linalg.norm(one - two, axis=1)))


def _bank(cells: Floats, parts: Ints, entries: int, seed: int) -> FeatureBank:
    looks, _, each, channels = cells.shape
    owners = np.repeat(np.tile(parts, looks), each)
    return learn_bank(cells.reshape(-1, channels), owners, entries=entries, seed=seed)


def _left_out(scales: tuple[Floats, ...], banks: tuple[FeatureBank, ...], parts: Ints) -> tuple[Floats, Floats]:
    """Returns ``(frames, scales)``: each frame's distance by the entries of all other parts, as it is and as judged."""
    own, greatest = (np.empty((len(parts), len(banks)), np.float32) for _ in range(2))
    for part in np.unique(parts):
        mine = np.flatnonzero(parts == part)
        for scale, (cells, bank) in enumerate(zip(scales, banks, strict=True)):
            judged = cells[:JUDGED, mine]
            distances = bank.distances(judged.reshape(-1, cells.shape[-1]), without=int(part)).reshape(judged.shape[:3])
            own[mine, scale] = [peak_of(one, PEAK_CELLS) for one in distances[0]]
            greatest[mine, scale] = [peak_of(one, PEAK_CELLS) for one in lower_of(distances)]
    return own, greatest
