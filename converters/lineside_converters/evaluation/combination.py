"""Evaluation of bundles of several models: the one verdict that they give on a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from lineside_converters.evaluation.bundle_accuracy import WARM_FRAMES, EvaluationFacts, latency_of
from lineside_converters.evaluation.figures import PartVerdicts, WorstFrame
from lineside_converters.evaluation.part_verdicts import part_verdicts, parts_shown, strength_of, worst_verdicts
from lineside_converters.evaluation.request import EvaluationRequest
from lineside_converters.reports.report_parts import ReportStruct
from lineside_models.datasets import load_dataset
from lineside_models.datasets.base import evenly_spread
from lineside_models.datasets.folds import check_fold
from lineside_models.datasets.part_images import has_good, load_part_images
from lineside_models.frame import Frame
from lineside_models.inspection import Inspection
from lineside_models.vision.images import read_image
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError, DatasetError, PartNotFoundError, RegistrationError

GOOD = "good"


class _Part(NamedTuple):
    """A part: its image, and the kinds of defects that it shows."""

    path: Path
    kinds: tuple[str, ...]


class CombinedInspector(Protocol):
    """Gives the verdict of several models, with the placement and rules that an agent gives them."""

    @property
    def models(self) -> Sequence[str]:
        """Names of the models in the order in which they run."""

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Least score of a defect of each type."""

    @property
    def variant(self) -> str:
        """Variants that run."""

    @property
    def requested_device(self) -> str:
        """Processors that should run them."""

    def inspect(self, frame: Frame) -> Inspection:
        """Inspects a frame."""


class KindRecall(ReportStruct, frozen=True, kw_only=True):
    """Bad parts of one kind.

    Attributes:
        recall: Share of them that is rejected.
    """

    recall: float
    support: int


class CombinationEvaluation(EvaluationFacts, frozen=True, kw_only=True):
    """Figures of a bundle of several models on one fold.

    Attributes:
        models: Names of its models, in the order in which they run.
        good_or_bad: The verdict on whole parts, without what other thresholds would give: several models have no
            common one.
        per_class: By kind of defect; a part of several kinds counts for each.
        worst_frames: Parts with a wrong verdict, the clearest first.
        faults: Parts that were not found, or could not be compared with a reference; they count as rejected.
    """

    task: str = "combination"
    models: tuple[str, ...]
    good_or_bad: PartVerdicts
    per_class: dict[str, KindRecall]
    worst_frames: tuple[WorstFrame, ...]
    faults: int


def judge_combination(
    inspector: CombinedInspector, bundle: Bundle, root: Path, request: EvaluationRequest
) -> CombinationEvaluation:
    """Evaluates the verdict of several models on good and bad parts.

    Args:
        root: A folder a class, one of them good, or frames with boxes.

    Raises:
        ConfigError: The request names a variant: each model has its own.
        DatasetError: There is no part, or no such fold.
    """
    request.refuse_detector_options("a bundle of several models")
    if request.config is not None and request.config.variant:
        raise ConfigError("--variant", expected="a bundle of one model", actual=bundle.manifest.identity)
    check_fold(root, request.fold)
    name, parts = _parts(root, request.fold)
    chosen = evenly_spread(parts, request.max_frames)
    if not chosen:
        raise DatasetError(f"{root}, fold {request.fold!r}", expected="at least one part", actual=0)
    seen = list(_inspected(inspector, chosen, request))
    strong = [strength_of(one, inspector.thresholds) for one in seen]
    good = [not part.kinds for part in chosen]
    files = [str(part.path.relative_to(root)) for part in chosen]
    shown = [", ".join(part.kinds) or GOOD for part in chosen]
    whole = part_verdicts(strong, good, parts_shown(root, [part.path for part in chosen], name), fold=request.fold)
    return CombinationEvaluation(
        bundle=bundle.manifest.identity,
        digest=bundle.digest,
        variant=inspector.variant,
        dataset=name,
        fold=request.fold,
        frames=len(chosen),
        latency_ms=latency_of([one.timings for one in seen if one is not None]),
        requested_device=inspector.requested_device,
        used_device=", ".join(sorted({one.used_device for one in seen if one is not None})),
        models=tuple(inspector.models),
        good_or_bad=msgspec.structs.replace(whole, at_recall=(), cost_curve=()),
        per_class=_by_kind(chosen, strong),
        worst_frames=worst_verdicts(files, shown, strong, good),
        faults=sum(one is None for one in seen),
    )


def _parts(root: Path, fold: str) -> tuple[str, list[_Part]]:
    """Returns the data set's name and its parts."""
    if root.is_dir() and has_good(root):
        found = load_part_images(root, fold)
        return found.name, [_Part(one.path, () if one.good else (one.kind,)) for one in found.images]
    dataset = load_dataset(root, fold, with_clean=True)
    names = dataset.vocabulary
    parts = [_Part(one.path, tuple(sorted({names[label] for label in one.labels}))) for one in dataset.samples]
    return dataset.name, parts


def _inspected(
    inspector: CombinedInspector, parts: Sequence[_Part], request: EvaluationRequest
) -> Iterator[Inspection | None]:
    for number, part in enumerate(parts):
        frame = Frame(image=read_image(part.path), source=str(part.path), part_id=part.path.stem)
        try:
            if number < WARM_FRAMES:
                inspector.inspect(frame)
            yield inspector.inspect(frame)
        except (PartNotFoundError, RegistrationError):
            yield None
        if request.on_progress is not None:
            request.on_progress(number + 1, len(parts))


def _by_kind(parts: Sequence[_Part], strong: Sequence[float]) -> dict[str, KindRecall]:
    rejected = np.array(strong) >= 1
    found = {}
    for kind in sorted({kind for part in parts for kind in part.kinds}):
        mine = np.array([kind in part.kinds for part in parts])
        found[kind] = KindRecall(recall=float(rejected[mine].mean()), support=int(mine.sum()))
    return found
