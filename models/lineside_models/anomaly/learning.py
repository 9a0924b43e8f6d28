"""Anomaly model of good frames, made on the device's own CPU: frames in, a bundle out.

::

    frames ─► features (INT8, shipped) ─► bank a scale ─► threshold (each part left out once) ─► model, golden, bundle

Nothing is trained by gradients: it takes seconds, and neither torch nor the onnx package.
"""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Callable, Iterable

import numpy as np

from lineside_models import zoo
from lineside_models.anomaly.bank import FeatureBank, entries_within, learn_bank
from lineside_models.anomaly.coreset import Floats, Ints
from lineside_models.anomaly.names import FEATURES_BUNDLE, stride_of
from lineside_models.anomaly.threshold import AnomalyThreshold, fit_threshold
from lineside_models.frame import Frame, UInt8Array
from lineside_models.preprocess import prepare
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, InputError
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

FRAMES_MIN = 10
"""With fewer, nothing can be said of how good parts differ."""

BANK_BYTES = 160 * 1024
"""512 entries a scale. Four times as many were no better on magnetic-tile's train fold (float features, one bank)."""

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
"""Of magnetic-tile, 50 frames of 8 or 9 tiles rejected 5 % of the frames of other tiles where 1 % was stated, and 155
frames of about 27 tiles 1 %."""

_PAIRS = 4000


@dataclasses.dataclass(frozen=True, slots=True)
class LearningOptions:
    """Settings of learning from good parts.

    Attributes:
        bank_bytes: What all banks together may take.
        quantile: Share of good parts that are to stay below the threshold; above 0.5, below 1.
        mirror: Whether mirrored frames count as good as well: more looks of a texture from as many parts. Not for parts
            whose mirror image is a defect.
        seed: Of what is drawn at random.
        threads: Of the engine.
    """

    bank_bytes: int = BANK_BYTES
    quantile: float = QUANTILE
    mirror: bool = True
    seed: int = 0
    threads: int = 1

    def check(self) -> None:
        """Checks every value.

        Raises:
            ConfigError: One is out of range.
        """
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
        strides: Of the scales.
        banks: One a scale.
        threshold: Threshold, and the map from distances to scores.
        frames: How many were learnt from.
        parts: How many parts they show.
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
    variation: float
    unevenness: float
    seconds: dict[str, float]

    @property
    def warning(self) -> str:
        """Warnings if there are few parts, or if they vary too much for defects to stand out; else empty."""
        warnings = []
        if self.parts < min(PARTS_MIN, self.frames):
            warnings.append(
                f"{self.frames} frames of {self.parts} parts: more good parts will be rejected than the quantile says; "
                f"learn from {PARTS_MIN} parts or more"
            )
        if self.variation >= VARIED or self.unevenness >= UNEVEN:
            warnings.append(_WIDE.format(self.variation, self.unevenness))
        return "; ".join(warnings)

    @property
    def bank_bytes(self) -> int:
        """Size of all banks."""
        return sum(bank.size_bytes for bank in self.banks)


def learn(
    frames: Iterable[Frame],
    options: LearningOptions | None = None,
    *,
    on_progress: Callable[[str], None] = lambda text: None,
) -> AnomalyModel:
    """Learns from good frames.

    Args:
        frames: Of good parts; in any sizes, though all in one is best. 50 are a good number. Frames of one ``part_id``
            show one part: they are left out together where the threshold is chosen, as a part on the line is one that
            was not learnt. A frame without one is a part of its own.
        options: Settings; the default ones if not given.
        on_progress: Told in words what is done.

    Raises:
        InputError: There are too few frames, or they all show the same.
        ConfigError: An option is out of range.
        BadInputFormatError: A frame holds no image.
        DeviceError: The features can't be computed here.
    """
    options = options or LearningOptions()
    options.check()
    source = open_bundle(zoo.path(FEATURES_BUNDLE))
    strides = tuple(stride_of(spec.name) for spec in source.manifest.outputs)
    entries = entries_within(options.bank_bytes, tuple(spec.shape[1] for spec in source.manifest.outputs))
    if entries < 1:
        raise ConfigError("bank_bytes", expected="room for an entry a scale", actual=options.bank_bytes)
    seconds: dict[str, float] = {}
    started_s = time.perf_counter()
    scales, parts = _features(source, frames, options, on_progress)
    count = len(parts)
    seconds["features"] = time.perf_counter() - started_s
    started_s = time.perf_counter()
    banks = tuple(_bank(cells, parts, entries, options.seed) for cells in scales)
    seconds["banks"] = time.perf_counter() - started_s
    on_progress(f"banks of {len(banks[0].entries)} entries")
    started_s = time.perf_counter()
    greatest = _left_out(scales, banks, parts)
    threshold = fit_threshold(greatest, parts, options.quantile)
    centres = np.median(greatest, axis=0)
    apart = np.array([_apart(cells[:count], bank, options.seed) for cells, bank in zip(scales, banks, strict=True)])
    seconds["bar"] = time.perf_counter() - started_s
    return AnomalyModel(
        source=source,
        strides=strides,
        banks=banks,
        threshold=threshold,
        frames=count,
        parts=int(parts.max()) + 1,
        variation=float((centres / apart).mean()),
        unevenness=float((greatest.std(axis=0) / centres).max()),
        seconds=seconds,
    )


def _apart(cells: Floats, bank: FeatureBank, seed: int) -> float:
    """Returns the median distance of random pairs of cells of good frames."""
    flat = cells.reshape(-1, cells.shape[-1])
    pairs = np.random.default_rng(seed).integers(0, len(flat), (2, _PAIRS))
    one, two = (flat[numbers] @ bank.whiten for numbers in pairs)
    return float(np.median(np.linalg.norm(one - two, axis=1)))


def _features(
    source: Bundle, frames: Iterable[Frame], options: LearningOptions, on_progress: Callable[[str], None]
) -> tuple[list[Floats], Ints]:
    """Returns ``(looks * frames, cells, C)`` a scale, all frames as they are first, and the part of each frame."""
    how = source.manifest.preprocess
    names = [spec.name for spec in source.manifest.outputs]
    looks: list[list[list[Floats]]] = [[[] for _ in names] for _ in range(3 if options.mirror else 1)]
    names_of_parts: list[str] = []
    pictures = set()
    with Session(source, Config(threads=options.threads)) as session:
        for frame in frames:
            for look, image in zip(looks, _mirrored(frame.image), strict=False):
                outputs = session.predict({how.input: prepare(image, how)[0]})
                for place, name in zip(look, names, strict=True):
                    place.append(_cells(outputs[name]))
            names_of_parts.append(frame.part_id or f"frame {len(names_of_parts)}")
            pictures.add(zlib.crc32(frame.image.tobytes()))
            if len(names_of_parts) % 10 == 0:
                on_progress(f"{len(names_of_parts)} frames")
    if len(pictures) < FRAMES_MIN:
        raise InputError(
            "too few different pictures to learn from",
            expected=f"{FRAMES_MIN} at least, better 50",
            actual=len(pictures),
            action="Give more frames of good parts, each of another part.",
        )
    parts = np.unique(names_of_parts, return_inverse=True)[1]
    return [np.stack([cells for look in looks for cells in look[scale]]) for scale in range(len(names))], parts


def _mirrored(image: UInt8Array) -> Iterable[UInt8Array]:
    yield image
    yield np.ascontiguousarray(image[:, ::-1])
    yield np.ascontiguousarray(image[::-1])


def _cells(features: Array) -> Floats:
    """Returns ``(1, C, h, w)`` as ``(cells, C)``."""
    return np.ascontiguousarray(features[0].reshape(features.shape[1], -1).T, np.float32)


def _bank(cells: Floats, parts: Ints, entries: int, seed: int) -> FeatureBank:
    pictures, each, channels = cells.shape
    owners = np.repeat(np.tile(parts, pictures // len(parts)), each)
    return learn_bank(cells.reshape(-1, channels), owners, entries=entries, seed=seed)


def _left_out(scales: list[Floats], banks: tuple[FeatureBank, ...], parts: Ints) -> Floats:
    """Returns ``(frames, scales)``: each frame's greatest distance by the entries of all other parts."""
    return np.array(
        [
            [
                float(bank.distances(cells[number], without=int(part)).max())
                for cells, bank in zip(scales, banks, strict=True)
            ]
            for number, part in enumerate(parts)
        ],
        np.float32,
    )
