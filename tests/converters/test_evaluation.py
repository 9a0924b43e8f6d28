from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside_converters.data.calibration_data import annotated_frame
from lineside_converters.evaluation import (
    ClassifierEvaluation,
    DetectorEvaluation,
    EvaluationRequest,
    SegmenterEvaluation,
    judge,
)
from lineside_converters.evaluation.page import write_page_of
from lineside_models import zoo
from lineside_models.datasets import load_dataset
from lineside_models.inspector import Inspector
from lineside_models.simulator import render
from lineside_runtime.bundle import Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.errors import ConfigError, DatasetError
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.converters import bright
from tests.runtime.onnx_models import FLOAT, graph
from tests.worlds import annotated_sets

SLIM = zoo.path("surface-12")
OUTSIDE = Path(__file__).with_name("outside_map50.py")


def outside(predictions: Path, data: Path, fold: str) -> dict[str, Any]:
    """Runs somebody else's judge, which can't see lineside."""
    command = [sys.executable, "-I", str(OUTSIDE), str(predictions), str(data), fold]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=predictions.parent)
    return json.loads(done.stdout)


def judge_detector(data: Path, asked: EvaluationRequest) -> DetectorEvaluation:
    result = judge(SLIM, data, asked)
    assert isinstance(result, DetectorEvaluation)
    return result


@pytest.fixture(scope="module")
def steel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotated_sets.write_strips(
        tmp_path_factory.mktemp("steel") / "data", {"train": 14, "val": 18}, first_seed=100, defects=None
    )


@pytest.fixture(scope="module")
def judged(steel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DetectorEvaluation, Path]:
    predictions = tmp_path_factory.mktemp("out") / "finds.json"
    return judge_detector(steel, EvaluationRequest(fold="val", clean_simulated=6, predictions=predictions)), predictions


def test_somebody_else_finds_the_same_map_in_the_finds_that_were_written(
    judged: tuple[DetectorEvaluation, Path], steel: Path
) -> None:
    result, predictions = judged
    theirs = outside(predictions, steel, "val")
    assert result.map50 == pytest.approx(theirs["map50"], abs=1e-6)
    ours = {name: each.ap50 for name, each in result.per_class.items() if each.ap50 is not None}
    assert len(ours) > 3
    assert ours == pytest.approx(theirs["ap50"], abs=1e-6)


@pytest.mark.parametrize(
    "write",
    [
        lambda root: annotated_sets.write_coco_boards(root, 4),
        lambda root: annotated_sets.write_boards(root, {"val": 4}, first_seed=900, defects=3, side=320),
    ],
)
def test_it_is_the_same_with_boards_in_other_layouts(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    data = write(tmp_path / "data")
    predictions = tmp_path / "finds.json"
    result = judge_detector(data, EvaluationRequest(fold="val", predictions=predictions))
    assert result.map50 == pytest.approx(outside(predictions, data, "val")["map50"], abs=1e-6)
    low, high = result.map50_interval.low, result.map50_interval.high
    assert 0 <= low <= result.map50 <= high <= 1


def test_curves_pass_through_the_figures_and_enclose_the_average_precision(
    judged: tuple[DetectorEvaluation, Path],
) -> None:
    result, _ = judged
    assert set(result.curves) == {name for name, each in result.per_class.items() if each.support}
    for name, curve in result.curves.items():
        assert np.mean(curve.precision) == pytest.approx(result.per_class[name].ap50, abs=1e-4)
        assert curve.recall_at_threshold == result.per_class[name].recall
        assert curve.precision_at_threshold == result.per_class[name].precision
        assert list(curve.precision) == sorted(curve.precision, reverse=True)


def test_the_matrix_counts_every_true_box_once_and_the_worst_frame_is_one_with_most_wrong(
    judged: tuple[DetectorEvaluation, Path],
) -> None:
    result, _ = judged
    by_type = {label: sum(row) for label, row in zip(result.confusion.labels, result.confusion.counts, strict=True)}
    assert all(by_type.get(name, 0) == each.support for name, each in result.per_class.items())
    weights = [each.weight for each in result.worst_frames]
    assert weights == sorted(weights, reverse=True)
    assert all(each.missed + each.false > 0 for each in result.worst_frames)
    hits = sum(round(each.recall * each.support) for each in result.per_class.values())
    assert sum(each.missed for each in result.worst_frames) == sum(map(sum, result.confusion.counts[:-1])) - hits


def test_good_parts_come_from_the_fold_and_the_simulator_and_the_factor_from_the_train_fold(
    judged: tuple[DetectorEvaluation, Path], steel: Path
) -> None:
    result, _ = judged
    verdict = result.good_or_bad
    clean = sum(
        "<object>" not in (steel / "annotations" / f"s{seed}.xml").read_text() for seed in range(114, 132)
    )  # the val fold
    assert [(each.source, each.parts) for each in verdict.false_rejects] == [
        ("frames without a defect, fold val", clean),
        ("clean simulator frames (steel)", 6),
        ("all", clean + 6),
    ]
    assert verdict.recall.parts == 18 - clean
    assert [each.chosen_on for each in verdict.at_recall] == ["fold train", "the judged frames themselves"]
    on_itself = verdict.at_recall[-1]
    assert on_itself.recall.rate >= 0.99
    for each in (*verdict.false_rejects, *on_itself.false_rejects):
        assert each.interval.low <= each.rate <= each.interval.high
        assert each.interval.method == "wilson"
    first, last = verdict.cost_curve[0], verdict.cost_curve[-1]
    assert (first.weight, first.cost) == (0, round(verdict.false_rejects[-1].rate, 5))  # an escape costs nothing
    assert (last.weight, last.cost) == (1, round(1 - verdict.recall.rate, 5))  # a false reject costs nothing
    assert all(each.best <= min(each.cost, each.weight, 1 - each.weight) for each in verdict.cost_curve)


def test_a_part_that_the_bundle_is_unsure_of_does_not_pass_here_as_on_the_line(
    judged: tuple[DetectorEvaluation, Path], steel: Path, tmp_path: Path
) -> None:
    banded = shutil.copytree(SLIM, tmp_path / "banded")
    manifest = json.loads((banded / "manifest.json").read_text())
    params = manifest["postprocess"]["params"]
    params["unsure_from"] = [0.02] * len(manifest["labels"])
    (banded / "manifest.json").write_text(json.dumps(manifest))
    result = judge(banded, steel, EvaluationRequest(fold="val"))
    assert isinstance(result, DetectorEvaluation)
    rejected = result.good_or_bad.recall.rejected + result.good_or_bad.false_rejects[0].rejected
    with Session(banded) as session:
        inspector = Inspector(session)
        samples = load_dataset(steel, "val").samples
        frames = [annotated_frame(one, session.manifest.labels, number) for number, one in enumerate(samples)]
        verdicts = [inspector.inspect(one.frame).verdict for one in frames]
    plain = judged[0].good_or_bad
    assert rejected == sum(verdict != "good" for verdict in verdicts) and "unsure" in verdicts
    assert rejected > plain.recall.rejected + plain.false_rejects[0].rejected
    assert result.per_class == judged[0].per_class, "a doubt is no find"


def test_templates_of_the_train_fold_are_no_good_parts_and_all_are_where_the_data_do_not_divide_themselves(
    tmp_path: Path,
) -> None:
    data = annotated_sets.write_boards(tmp_path / "data", {"train": 2, "val": 3}, first_seed=900, defects=3, side=320)

    def parts(folder: Path, fold: str) -> tuple[str, int]:
        verdict = judge_detector(folder, EvaluationRequest(fold=fold)).good_or_bad
        source, *others = ((each.source, each.parts) for each in verdict.false_rejects)
        assert others == [("all", source[1])] and verdict.recall.parts == (3 if fold == "val" else 5)
        return source

    assert parts(data, "val") == ("templates of deeppcb, fold val", 3)
    assert parts(data, "all") == ("templates of deeppcb, fold all", 3)
    (data / "folds.csv").unlink()  # as the authors of DeepPCB publish it
    for given in ("", "PCBData"):
        assert parts(data / given, "all") == ("templates of deeppcb, fold all", 5)


def test_the_page_stands_alone_and_shows_truth_beside_find(
    judged: tuple[DetectorEvaluation, Path], steel: Path, tmp_path: Path
) -> None:
    result, _ = judged
    page = tmp_path / "below" / "page.html"
    write_page_of(page, result, SLIM, steel)
    text = page.read_text()
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text
    assert text.count("data:image/jpeg;base64,") == 2 * min(12, len(result.worst_frames))
    assert all(name in text for name in result.per_class)
    assert f"{result.map50:.3f}" in text


def classifier(folder: Path, labels: tuple[str, ...]) -> Path:
    """Writes a classifier that says ``bright`` the more, the brighter a frame is."""
    from onnx import helper, numpy_helper

    values = {"slope": np.array([[20.0, -20.0]], np.float32)}
    nodes = [
        *(helper.make_node("Constant", [], [n], value=numpy_helper.from_array(v, n)) for n, v in values.items()),
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "slope"], ["scores"]),
    ]
    (folder / "onnx").mkdir(parents=True)
    data = graph(nodes, [("image", FLOAT, ["n", 1, 32, 32])], [("scores", FLOAT, ["n", 2])])
    (folder / "onnx" / "model.onnx").write_bytes(data)
    manifest = Manifest(
        name="bright-or-dark",
        version="1",
        task="classification",
        created_at="2026-01-01T00:00:00+00:00",
        labels=labels,
        inputs=(TensorSpec(name="image", shape=(-1, 1, 32, 32), dtype="float32"),),
        outputs=(TensorSpec(name="scores", shape=(-1, 2), dtype="float32"),),
        preprocess=Preprocess(input="image", colour="grey", size=(32, 32), mean=(128.0,), std=(128.0,)),
        postprocess=Postprocess(name="classification"),
        variants=(Variant(name="onnx", format="onnx", file="onnx/model.onnx", level=0, precision="fp32"),),
    )
    return write_manifest(folder, manifest).path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes; two of the dark pictures are bright ones."""
    root = tmp_path / "pictures"
    for name, levels in (("bright", [220] * 6), ("dark", [30] * 4 + [200] * 2)):
        (root / name).mkdir(parents=True)
        for number, level in enumerate(levels):
            cv2.imwrite(str(root / name / f"{number}.png"), np.full((32, 32), level, np.uint8))
    return root


def test_a_classifier_is_judged_by_its_surest_answer(tmp_path: Path, pictures: Path) -> None:
    bundle = classifier(tmp_path / "bundle", ("bright", "dark"))
    result = judge(bundle, pictures, EvaluationRequest())
    assert isinstance(result, ClassifierEvaluation)
    assert (result.frames, result.top1, result.top5) == (12, 10 / 12, None)
    assert result.confusion.counts == ((6, 0), (2, 4))
    assert result.per_class["dark"].recall == pytest.approx(4 / 6)
    assert result.top1_interval.low < 10 / 12 < result.top1_interval.high
    assert [each.truth for each in result.worst_frames] == ["dark", "dark"]
    write_page_of(tmp_path / "page.html", result, bundle, pictures)
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg;base64,") == 4


def test_a_class_that_was_never_answered_has_no_precision(tmp_path: Path, pictures: Path) -> None:
    for path in (pictures / "bright").iterdir():
        path.unlink()
    for number in range(3):
        cv2.imwrite(str(pictures / "bright" / f"{number}.png"), np.full((32, 32), 20, np.uint8))
    for path in sorted((pictures / "dark").iterdir())[4:]:
        path.unlink()
    bundle = classifier(tmp_path / "bundle", ("bright", "dark"))
    result = judge(bundle, pictures, EvaluationRequest())
    assert isinstance(result, ClassifierEvaluation)
    assert (result.per_class["bright"].precision, result.per_class["bright"].recall) == (None, 0.0)
    assert result.per_class["dark"].precision == pytest.approx(4 / 7)
    write_page_of(tmp_path / "page.html", result, bundle, pictures)
    assert "<td>bright</td><td>–</td>" in (tmp_path / "page.html").read_text()


def test_what_does_not_fit_and_folds_that_there_are_not_are_refused(
    tmp_path: Path, pictures: Path, steel: Path
) -> None:
    net = classifier(tmp_path / "bundle", ("bright", "dark"))
    (tmp_path / "file").write_text("")
    nowhere = tmp_path / "file" / "finds.json"
    refused: tuple[tuple[Path, Path, dict[str, Any], type[Exception], str], ...] = (
        (net, pictures, {"predictions": tmp_path / "finds.json"}, ConfigError, "predictions"),
        (net, pictures, {"choose_on": "train"}, ConfigError, "a fold to choose on"),
        (SLIM, pictures, {}, DatasetError, "boxes"),
        (net, steel, {}, DatasetError, "one type a frame"),
        (SLIM, steel, {"fold": "vla"}, DatasetError, "train or val"),
        (net, pictures, {"fold": "val"}, DatasetError, r"no fold 'val'.*folds\.csv"),
        (
            SLIM,
            steel,
            {"fold": "val", "max_frames": 2, "choose_on": "trian", "clean_simulated": 1},
            DatasetError,
            "train or val",
        ),
        (SLIM, steel, {"fold": "val", "max_frames": 0}, DatasetError, "no samples"),
        (SLIM, steel, {"fold": "val", "predictions": nowhere}, ConfigError, "can't be written"),
    )
    for bundle, data, asked, error, words in refused:
        with pytest.raises(error, match=words):
            judge(bundle, data, EvaluationRequest(**asked))
    assert judge(net, pictures, EvaluationRequest()).fold == "all"


def test_the_fold_to_choose_on_may_number_its_types_otherwise(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for fold, types in (("train", ["patches", "scratches"]), ("val", ["scratches"])):
        notes = [{"image_id": 1, "category_id": len(types), "bbox": [8, 8, 40, 40]}]
        content = {
            "images": [{"id": number, "file_name": f"{fold}{number}.png"} for number in (1, 2)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(types, 1)],
            "annotations": notes,
        }
        (tmp_path / "annotations" / f"instances_{fold}.json").write_text(json.dumps(content))
        for number in (1, 2):
            (tmp_path / "images").mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / "images" / f"{fold}{number}.png"), np.full((64, 64), 100 + number, np.uint8))
    result = judge(SLIM, tmp_path, EvaluationRequest(fold="val", choose_on="train"))
    assert isinstance(result, DetectorEvaluation) and result.good_or_bad.at_recall[0].chosen_on == "fold train"


def test_clean_simulator_frames_come_from_a_stream_of_their_own() -> None:
    from lineside_converters.evaluation.good_parts import simulated

    (parts,) = simulated(2, ("open",))
    first, second = parts.frames
    assert not np.array_equal(first.frame.image, second.frame.image)
    assert not np.array_equal(first.frame.image, render("pcb", 0, defects=0).image)


def test_a_segmenter_is_judged_by_the_pixels_of_masks(tmp_path: Path) -> None:
    # The input is twice as large, and padded; the second mask lies 4 pixels beside what is bright.
    data = bright.photos(tmp_path / "data", (0, 4, None))
    bundle = bright.segmenter(tmp_path / "bundle")
    result = judge(bundle, data, EvaluationRequest())
    assert isinstance(result, SegmenterEvaluation)
    assert result.mean_iou == pytest.approx((64 + 32) / (64 + 96))
    assert result.per_class["bright"].support == 128
    assert result.f1 == 1.0
    assert result.false_rejects is not None
    assert (result.false_rejects.parts, result.false_rejects.rejected) == (1, 0)
    assert sum(map(sum, result.confusion.counts)) == 3 * 16 * 32
    assert result.worst_frames[0].frame == "1"
    assert result.mean_iou_interval.low <= result.mean_iou <= result.mean_iou_interval.high
    write_page_of(tmp_path / "page.html", result, bundle, data)
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg;base64,") == 2 * len(result.worst_frames)


def test_a_rejected_part_counts_as_rejected_whatever_the_threshold_of_another_model() -> None:
    from lineside_converters.evaluation.part_verdicts import strength_of
    from lineside_models.inspection import Detection, Inspection

    spot = Detection(type="spot", score=0.4, box=(0, 0, 1, 1))
    rejected = Inspection(part_id="p", passed=False, verdict="bad", detections=(spot,))
    assert strength_of(rejected, {"spot": 0.8}) == 1.0
    assert strength_of(rejected, {"spot": 0.2}) == 2.0
    assert strength_of(Inspection(part_id="p", passed=False, verdict="unsure"), {"spot": 0.2}) == 1.0
    assert strength_of(Inspection(part_id="p", passed=True, verdict="good", near_miss=1.0), {}) < 1.0
    assert strength_of(None, {}) == float("inf")
