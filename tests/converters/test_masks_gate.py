"""A segmenter is judged by the pixels of masks where a data set has them, and stopped where it finds fewer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lineside_converters.candidate import Candidate, CandidateEvaluation, CandidateVariant, SourceModel
from lineside_converters.context import Context
from lineside_converters.data.calibration_data import gather_inputs
from lineside_converters.gates.runner import run_gates
from lineside_converters.gates.statistics import drop_of_mean_iou
from lineside_converters.levels import LEVELS
from lineside_converters.options import LimitOptions
from lineside_converters.progress import ProgressReporter
from lineside_converters.targets import find_target
from lineside_converters.tasks import DetectionTask, SegmentationTask, task_of
from lineside_converters.work_folder import WorkFolder
from lineside_runtime.errors import AccuracyGateError, BadInputFormatError, CalibrationError
from tests.converters import bright
from tests.worlds.annotated_sets import write_masks

LAX = dataclasses.replace(
    LEVELS[1], min_correlation=-1.0, min_correlation_alone=-1.0, min_agreement=-1.0, min_agreement_alone=-1.0,
    max_slowdown=1e9,
)  # fmt: skip


def proved(folder: Path, bar: float, *, max_drop: float = 0.02) -> CandidateEvaluation:
    """Proves the segmenter with a higher bar beside itself on six photos, of which one shows nothing."""
    source, made = folder / "source.onnx", folder / "made.onnx"
    source.write_bytes(bright.network())
    made.write_bytes(bright.network(bar))
    data = bright.photos(folder / "data", (0, 0, 1, 2, None, 0), size=(64, 64))
    manifest = bright.manifest()
    inputs = gather_inputs(manifest, limit=4, data=(data,), fold="all")
    context = Context(
        source=SourceModel.of(source, manifest), manifest=manifest, inputs=inputs, level=LAX,
        target=find_target("cpu"), task=task_of(manifest, masks=inputs.masks),
        work=WorkFolder(folder, lambda _: None), progress=ProgressReporter(lambda _: None),
        limits=LimitOptions(max_drop=max_drop),
    )  # fmt: skip
    variant = CandidateVariant(variant=manifest.variants[0], engine="ort", file=made)
    return run_gates(Candidate(model=source, variants=(variant,)), context)


def test_the_figure_is_the_iou_of_the_judged_masks(tmp_path: Path) -> None:
    proof = proved(tmp_path, bar=0.84, max_drop=1.0)
    (candidate,) = proof.accepted
    assert candidate.drop is not None
    # A bar of 0.84 is 235.5: four of the square's eight columns, 250 to 237, are still above it.
    shown = [number for number in range(6) if number != 4]
    judged = [int(truth.frame.part_id or 0) for truth in proof.truths]
    assert set(judged) < {*shown, 4}
    shift = {0: 0, 1: 0, 2: 1, 3: 2, 5: 0}
    before = [(8 - shift[n], 8 + shift[n]) for n in judged if n in shift]
    after = [(4 - shift[n], 8 + shift[n]) for n in judged if n in shift]
    for said, pairs in ((candidate.drop.before, before), (candidate.drop.after, after)):
        shared, union = (sum(column) for column in zip(*pairs, strict=True))
        assert said == pytest.approx(shared / union)


def test_one_that_finds_fewer_pixels_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(AccuracyGateError, match="mean IoU"):
        proved(tmp_path, bar=0.84)


def test_where_there_are_boxes_only_a_segmenter_is_judged_by_its_pieces_and_unknown_types_are_refused(
    tmp_path: Path,
) -> None:
    assert isinstance(task_of(bright.manifest(), masks=True), SegmentationTask)
    assert isinstance(task_of(bright.manifest()), DetectionTask)
    assert not gather_inputs(bright.manifest(), limit=4).masks
    data = write_masks(tmp_path / "data", 6)
    with pytest.raises(CalibrationError, match="dent") as caught:
        gather_inputs(bright.manifest(), limit=4, data=(data,), fold="all")
    assert "bright" in str(caught.value)


def test_the_interval_is_that_of_images_drawn_the_long_way() -> None:
    rng = np.random.default_rng(7)
    before = rng.integers(0, 40, (25, 3, 3))
    after = before.copy()
    moved = rng.integers(0, 15, (25, 2))
    after[:, 1, 1] -= np.minimum(moved[:, 0], after[:, 1, 1])
    after[:, 1, 0] += np.minimum(moved[:, 0], before[:, 1, 1])
    found = drop_of_mean_iou(before, after, resamples=400, seed=3)

    def iou(tables: np.ndarray) -> float:
        whole = tables.sum(axis=0)
        each = [whole[k, k] / (whole[k].sum() + whole[:, k].sum() - whole[k, k]) for k in (1, 2)]
        return float(np.mean(each))

    random = np.random.default_rng(3)
    drops = []
    for _ in range(400):
        chosen = random.integers(25, size=25)
        drops.append(iou(before[chosen]) - iou(after[chosen]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drops, (0.025, 0.975))))
    assert found.drop == pytest.approx(iou(before) - iou(after)) and found.drop > 0


def test_tables_of_two_sizes_are_refused() -> None:
    with pytest.raises(BadInputFormatError):
        drop_of_mean_iou(np.zeros((2, 3, 3)), np.zeros((2, 2, 2)))
