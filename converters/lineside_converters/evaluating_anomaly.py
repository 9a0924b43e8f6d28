"""How good a model of good parts is: does it score bad parts above good ones, and does it say where?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.datasets.parts import Part, Parts, read_mask
from lineside_models.frame import Frame
from lineside_models.inspection import Inspection
from lineside_models.ranking import auroc
from lineside_models.vision.images import read_image
from lineside_models.vision.quality import QualityInspector
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import DatasetError, IncompatibleBundleError

Progress = Callable[[int, int], None]

PIXELS_SIDE = 128
"""Heat maps and masks are compared at this size: 75 frames then take no gigabyte, and maps are coarser anyway."""


class AnomalyEvaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The figures of one bundle on one fold.

    Attributes:
        bundle: ``name@version``.
        digest: sha256 of the bundle's manifest.
        dataset: Name of the data set's folder.
        fold: Of the data set.
        frames: How many.
        good: Of those.
        auroc: Of the frames' scores.
        auroc_by_kind: Of each kind of defect against all good frames.
        auroc_pixels: Of the heat maps' pixels against the masks, good frames included; ``None`` without masks.
        false_rejects: Share of the good frames above the bundle's threshold.
        recall: Share of the bad ones.
        recall_by_kind: By kind of defect.
        latency_ms: Median from the frame to the verdict, one frame at a time.
        used_device: Every device that answered.
    """

    bundle: str
    digest: str
    dataset: str
    fold: str
    frames: int
    good: int
    auroc: float
    auroc_by_kind: dict[str, float]
    auroc_pixels: float | None
    false_rejects: float
    recall: float
    recall_by_kind: dict[str, float]
    latency_ms: float
    used_device: str


def evaluate_anomaly(
    bundle: Bundle,
    parts: Parts,
    *,
    fold: str = "",
    max_frames: int | None = None,
    config: Config | None = None,
    on_progress: Progress | None = None,
) -> AnomalyEvaluation:
    """Judges a bundle of good parts on good and bad ones.

    Args:
        bundle: Its task is ``anomaly``.
        parts: From `load_parts`.
        fold: Its name, for the result.
        max_frames: At most so many frames, spread over all; ``None`` for all.
        config: Where the bundle may run.
        on_progress: Told how many frames of how many are done.

    Raises:
        IncompatibleBundleError: The bundle is of another task.
        DatasetError: There are only good or only bad parts.
        BadInputFormatError: A file is no image.
        LinesideError: As for `Session`.
    """
    if bundle.manifest.task != "anomaly":
        raise IncompatibleBundleError(f"{bundle.manifest.identity} knows no good parts", expected="task anomaly")
    count = len(parts.parts) if max_frames is None else max(0, min(max_frames, len(parts.parts)))
    chosen = [parts.parts[number * len(parts.parts) // count] for number in range(count)]
    if len({part.good for part in chosen}) != 2:
        raise DatasetError(f"{parts.name}, fold {fold!r}", expected="good parts and bad ones", actual=f"{count} frames")
    verdicts: list[Inspection] = []
    heats: list[npt.NDArray[np.float32]] = []
    with QualityInspector(bundle.path, None, batch_size=1, config=config) as inspector:
        for number, part in enumerate(chosen):
            frame = Frame(image=read_image(part.path), source=str(part.path), part_id=part.path.stem)
            verdicts += inspector.predict(frame)
            heats.append(_small(inspector.heat_map(frame)))
            if on_progress is not None:
                on_progress(number + 1, count)
    return AnomalyEvaluation(
        bundle=bundle.manifest.identity,
        digest=bundle.digest,
        dataset=parts.name,
        fold=fold,
        frames=count,
        auroc_pixels=_of_pixels(chosen, heats),
        latency_ms=float(np.median([one.timings.total_ms for one in verdicts])),
        used_device=", ".join(sorted({one.used_device for one in verdicts})),
        **_of_frames(chosen, verdicts),
    )


def _of_frames(parts: Sequence[Part], verdicts: Sequence[Inspection]) -> dict[str, Any]:
    scores = np.array([one.anomaly_score or 0.0 for one in verdicts])
    rejected = np.array([not one.passed for one in verdicts])
    good = np.array([part.good for part in parts])
    kinds = {kind: np.array([part.kind == kind for part in parts]) for kind in {p.kind for p in parts if not p.good}}
    return {
        "good": int(good.sum()),
        "auroc": auroc(scores[good], scores[~good]),
        "auroc_by_kind": {kind: auroc(scores[good], scores[kinds[kind]]) for kind in sorted(kinds)},
        "false_rejects": float(rejected[good].mean()),
        "recall": float(rejected[~good].mean()),
        "recall_by_kind": {kind: float(rejected[kinds[kind]].mean()) for kind in sorted(kinds)},
    }


def _of_pixels(parts: Sequence[Part], heats: Sequence[npt.NDArray[np.float32]]) -> float | None:
    """Returns AUROC over pixels of good frames and of bad ones that have a mask."""
    inside, outside = [], []
    for part, heat in zip(parts, heats, strict=True):
        if part.mask is None and not part.good:
            continue
        mask = np.zeros(heat.shape, np.bool_) if part.mask is None else _small_mask(part.mask)
        inside.append(heat[mask])
        outside.append(heat[~mask])
    if not any(each.size for each in inside):
        return None
    return auroc(np.concatenate(outside), np.concatenate(inside))


def _small(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    side = (PIXELS_SIDE, PIXELS_SIDE)
    return np.asarray(cv2.resize(heat, side, interpolation=cv2.INTER_AREA), np.float32)


def _small_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Returns the mask at that size; a pixel that is a defect anywhere stays one, so that thin cracks don't vanish."""
    share = cv2.resize(read_mask(path).astype(np.float32), (PIXELS_SIDE, PIXELS_SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(share > 0)
