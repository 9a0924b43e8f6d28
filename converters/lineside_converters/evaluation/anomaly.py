"""Evaluation of anomaly models: separation of good and bad parts, and of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lineside_converters.evaluation.bundle_accuracy import EvaluationFacts, facts_of
from lineside_converters.evaluation.figures import PartVerdicts, WorstFrame
from lineside_converters.evaluation.frame_tasks import run_in_tasks
from lineside_converters.evaluation.part_verdicts import part_verdicts, parts_shown, strength_of, worst_verdicts
from lineside_converters.evaluation.request import EvaluationRequest
from lineside_converters.reports.report_parts import ReportStruct
from lineside_models.datasets.base import evenly_spread
from lineside_models.datasets.part_images import PartImage, load_part_images, read_mask
from lineside_models.frame import Frame
from lineside_models.inspection import Inspection
from lineside_models.inspector import Inspector
from lineside_models.metrics import auroc
from lineside_models.vision.heat import heat_of
from lineside_models.vision.images import read_image
from lineside_runtime.errors import DatasetError, RegistrationError
from lineside_runtime.progress import CountListener
from lineside_runtime.session import Session

Heat = npt.NDArray[np.float32]

PIXELS_SIDE = 128
"""Heat maps and masks are compared at this size: 75 frames then take no gigabyte, and maps are coarser anyway."""


class KindFigures(ReportStruct, frozen=True, kw_only=True):
    """Figures of one kind of defect.

    Attributes:
        auroc: Against all good frames.
        recall: Share of its frames that are rejected at the bundle's threshold.
    """

    auroc: float
    recall: float
    support: int


class AnomalyEvaluation(EvaluationFacts, frozen=True, kw_only=True):
    """Figures of an anomaly model on one fold.

    Attributes:
        good: Good frames among them.
        auroc: AUROC of the frames' scores, by Mann and Whitney.
        auroc_pixels: AUROC of the heat maps' pixels against the masks, good frames included; ``None`` without masks.
        false_rejects: Share of the good frames that are rejected at the bundle's threshold.
        recall: Share of the bad ones.
        worst_frames: Parts with a wrong verdict, the clearest first.
        faults: Frames that could not be compared with the bundle's reference; they count as rejected, with the highest
            score.
    """

    task: str = "anomaly"
    good: int
    auroc: float
    auroc_pixels: float | None
    false_rejects: float
    recall: float
    good_or_bad: PartVerdicts
    per_class: dict[str, KindFigures]
    worst_frames: tuple[WorstFrame, ...]
    faults: int = 0


def judge_anomaly(session: Session, root: Path, request: EvaluationRequest) -> AnomalyEvaluation:
    """Evaluates an anomaly model on good and bad parts."""
    request.refuse_detector_options("an anomaly model")
    found = load_part_images(root, request.fold)
    chosen = evenly_spread(found.images, request.max_frames)
    if len({part.good for part in chosen}) != 2:
        raise DatasetError(
            f"{root}, fold {request.fold!r}", expected="good parts and bad ones", actual=f"{len(chosen)} frames of one"
        )
    looked = run_in_tasks(session, _look, chosen, request.tasks, request.on_progress)
    verdicts, heats = [verdict for verdict, _ in looked], [heat for _, heat in looked]
    thresholds = Inspector(session, batch_size=1).thresholds
    compared = [one for one, heat in zip(verdicts, heats, strict=True) if heat is not None]
    strong = [strength_of(None if heat is None else one, thresholds) for one, heat in zip(verdicts, heats, strict=True)]
    good = [part.good for part in chosen]
    files = [str(part.path.relative_to(root)) for part in chosen]
    timings, devices = [one.timings for one in compared], [one.used_device for one in compared]
    return AnomalyEvaluation(
        **{
            **facts_of(session, found.name, request.fold, timings, devices, workers=request.tasks.workers),
            "frames": len(chosen),
        },
        auroc_pixels=_of_pixels(chosen, heats),
        good_or_bad=part_verdicts(strong, good, parts_shown(root, [one.path for one in chosen]), fold=request.fold),
        worst_frames=worst_verdicts(files, [part.kind for part in chosen], strong, good),
        faults=sum(heat is None for heat in heats),
        **_of_frames(chosen, verdicts),
    )


def _look(
    session: Session, parts: Sequence[PartImage], on_progress: CountListener | None
) -> list[tuple[Inspection, Heat | None]]:
    """Returns verdict and heat map of each part; no map of one that can't be compared with the reference."""
    inspector = Inspector(session, batch_size=1)
    found: list[tuple[Inspection, Heat | None]] = []
    for number, part in enumerate(parts):
        frame = Frame(image=read_image(part.path), source=str(part.path), part_id=part.path.stem)
        try:
            heat = _small(heat_of(inspector, [frame]))  # which also warms up
            found.append((inspector.inspect(frame), heat))
        except RegistrationError:
            unsure = Inspection(part_id=frame.part_id, passed=False, verdict="unsure", anomaly_score=1.0)
            found.append((unsure, None))
        if on_progress is not None:
            on_progress(number + 1, len(parts))
    return found


def _of_frames(parts: Sequence[PartImage], verdicts: Sequence[Inspection]) -> dict[str, Any]:
    scores = np.array([one.anomaly_score or 0.0 for one in verdicts])
    rejected = np.array([not one.passed for one in verdicts])
    good = np.array([part.good for part in parts])
    kinds = {kind: np.array([part.kind == kind for part in parts]) for kind in {p.kind for p in parts if not p.good}}
    return {
        "good": int(good.sum()),
        "auroc": auroc(scores[good], scores[~good]),
        "false_rejects": float(rejected[good].mean()),
        "recall": float(rejected[~good].mean()),
        "per_class": {
            kind: KindFigures(
                auroc=auroc(scores[good], scores[mine]),
                recall=float(rejected[mine].mean()),
                support=int(mine.sum()),
            )
            for kind, mine in sorted(kinds.items())
        },
    }


def _of_pixels(parts: Sequence[PartImage], heats: Sequence[Heat | None]) -> float | None:
    """Returns AUROC over pixels of good frames and of bad ones that have a mask."""
    inside, outside = [], []
    for part, heat in zip(parts, heats, strict=True):
        if heat is None or (part.mask is None and not part.good):
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
