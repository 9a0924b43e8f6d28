"""The figures of an evaluation, computed again by somebody else's code, of frames as the line sees them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from lineside_converters.data.calibration_data import annotated_frame
from lineside_converters.evaluation.bundle_accuracy import Evaluation, evaluate, find
from lineside_converters.evaluation.bundle_runner import judge
from lineside_models.datasets import Dataset, load_dataset
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.labels import LABELS
from lineside_runtime.bundle import Bundle, Slicing
from lineside_runtime.errors import DatasetError
from lineside_runtime.session import Session
from tests.converters import nets
from tests.models.coco_judge import ap50

FRAMES = 25


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(nets.write_cells_dataset(tmp_path_factory.mktemp("data") / "cells", FRAMES), "val")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return nets.bundle(tmp_path_factory.mktemp("bundle") / "cells", nets.cell_detector())


@pytest.fixture(scope="module")
def result(bundle: Bundle, dataset: Dataset) -> Evaluation:
    return evaluate(bundle, dataset, fold="val")


def test_average_precision_is_what_pycocotools_makes_of_the_same_finds(
    bundle: Bundle, dataset: Dataset, result: Evaluation
) -> None:
    frames = [annotated_frame(sample, LABELS, number) for number, sample in enumerate(dataset.samples)]
    with Session(bundle) as session:
        truths, judged = find(session, frames)
    by_label = ap50(truths, [each.candidates for each in judged], len(LABELS))
    outside = {LABELS[label]: value for label, value in by_label.items()}
    assert set(outside) == {"crazing", "inclusion"}
    for name, value in outside.items():
        assert result.per_class[name].ap50 == pytest.approx(value, abs=1e-6)
        assert 0.2 < value < 0.999
    assert result.map50 == pytest.approx(np.mean(list(outside.values())), abs=1e-6)


def test_f1_by_image_is_that_of_the_verdicts_that_an_inspector_gives(
    bundle: Bundle, dataset: Dataset, result: Evaluation
) -> None:
    hits = false = missed = 0
    with Session(bundle) as session:
        inspector = Inspector(session)
        for number, sample in enumerate(dataset.samples):
            verdict = inspector.inspect(annotated_frame(sample, LABELS, number).frame)
            claimed = {each.type for each in verdict.detections} & set(dataset.labels)
            really = {LABELS[label] for label in sample.labels}
            hits += len(claimed & really)
            false += len(claimed - really)
            missed += len(really - claimed)
    assert false
    assert result.f1 == pytest.approx(2 * hits / (2 * hits + false + missed))


def test_precision_and_recall_add_up_for_the_types_of_the_data_set_alone(result: Evaluation, dataset: Dataset) -> None:
    figures = result.per_class["crazing"]
    assert figures.support == sum(int((sample.labels == 0).sum()) for sample in dataset.samples)
    assert figures.support_images == sum(bool((sample.labels == 0).any()) for sample in dataset.samples)
    hits = round(figures.recall * figures.support)
    assert hits / figures.support == pytest.approx(figures.recall)
    assert figures.precision is not None and 0.2 < figures.precision < 1
    assert tuple(result.per_class) == dataset.labels
    assert result.per_class["scratches"].ap50 is None
    assert result.per_class["scratches"].support == 0
    assert result.false_boxes_of_other_types == 0


def test_the_result_is_json_and_says_where_it_ran(bundle: Bundle, result: Evaluation) -> None:
    plain = msgspec.json.decode(msgspec.json.encode(result))
    assert plain["bundle"] == "cells@1.0.0"
    assert plain["digest"] == bundle.digest
    assert plain["frames"] == FRAMES
    assert plain["dataset"] == "neu-det"
    assert plain["fold"] == "val"
    assert plain["used_device"].endswith("/cpu:0")
    assert plain["requested_device"] == "cpu:0"
    latency = plain["latency_ms"]
    assert latency["p50"] <= latency["p95"]
    stages = sum(latency[name]["mean"] for name in ("preprocess", "inference", "postprocess"))
    assert stages == pytest.approx(latency["mean"])
    assert msgspec.json.decode(msgspec.json.encode(result), type=Evaluation) == result


def test_fewer_frames_are_judged_with_progress_and_their_pictures_are_not_kept(
    bundle: Bundle, dataset: Dataset
) -> None:
    told: list[tuple[int, int]] = []
    few = evaluate(bundle, dataset, max_frames=5, on_progress=lambda done, total: told.append((done, total)))
    assert few.frames == 5
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    frames = [annotated_frame(sample, LABELS, number) for number, sample in enumerate(dataset.samples[:3])]
    with Session(bundle) as session:
        truths, _ = find(session, frames)
    assert {truth.frame.image.size for truth in truths} == {1}
    for most in (0, -3):
        with pytest.raises(DatasetError, match="no samples"):
            evaluate(bundle, dataset, max_frames=most)


def test_a_bundle_that_does_not_know_the_types_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "m.onnx").write_bytes(nets.cell_detector())
    made = msgspec.structs.replace(nets.manifest(), labels=tuple(f"dent {n}" for n in range(12)))
    other = nets.bundle(tmp_path / "cells", nets.cell_detector())
    foreign = Bundle(other.path, msgspec.structs.replace(made, files=other.manifest.files), other.digest)
    with pytest.raises(DatasetError, match="doesn't know"):
        evaluate(foreign, dataset)


def test_frames_that_the_line_looks_at_in_pieces_are_judged_in_pieces(tmp_path: Path) -> None:
    plain = nets.bundle(tmp_path / "b", nets.cell_detector())
    how = msgspec.structs.replace(plain.manifest.preprocess, slicing=Slicing(side_px=96, overlap=0.34, whole=False))
    sliced = Bundle(plain.path, msgspec.structs.replace(plain.manifest, preprocess=how), plain.digest)
    image = np.full((320, 320), 127, np.uint8)
    image[160:168, 200:208] = 255
    frame = Frame(image=image)
    with Session(sliced) as session:
        judged = judge(session, frame)
        found = Inspector(session).find([frame])[0]
    with Session(plain) as session:
        whole = judge(session, frame)
    np.testing.assert_array_equal(judged.candidates.boxes, found.candidates.boxes)
    assert judged.candidates.scores.max() > 0.9
    assert len(whole.candidates) == 0 or whole.candidates.scores.max() < judged.candidates.scores.max()
    assert judged.timings.inference_ms > 0
