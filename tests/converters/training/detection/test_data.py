"""Data sets of other people: their own types, framing and folds; and one run from a COCO folder to a bundle."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import torch

from lineside.cli import main
from lineside_converters.training.data.augmentation import TrainingPicture
from lineside_converters.training.data.batches import Mixer
from lineside_converters.training.data.framing import OWN, choose_framing, preprocess_for
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.data import as_seen, canvases_per_domain, load_detection_data
from lineside_converters.training.detection.trainer import export_detector
from lineside_converters.training.initial_weights import PRIOR_BIAS, open_start, take_labels
from lineside_models import zoo
from lineside_models.labels import LABELS
from lineside_models.networks.detector import PRIOR, SurfaceDetector
from lineside_models.preprocess import prepare
from lineside_runtime.errors import DatasetError, TrainingError, UnsupportedModelError
from tests.worlds.annotated_sets import write_coco, write_strips

pytestmark = pytest.mark.torch


def config(*folders: Path, **more: Any) -> DetectorConfig:
    common: dict[str, Any] = {
        "out": folders[0].parent / "run",
        "canvas_px": 64,
        "batch": 8,
        "held_share": 0.2,
        "simulated_share": 0.0,
    }
    return DetectorConfig(data=folders, **(common | more))


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("sets") / "parts", 48)


def boxed(side: int, *lengths: int) -> TrainingPicture:
    boxes = np.array([[0, 0, length, length] for length in lengths], np.float32).reshape(-1, 4)
    return TrainingPicture(np.zeros((side, side), np.uint8), boxes, np.zeros(len(lengths), np.int64))


def test_a_set_has_its_own_types_and_divides_no_part(coco: Path, tmp_path: Path) -> None:
    data = load_detection_data(config(coco, out=tmp_path, group=r"(p\d+)-", val_share=0.2))
    (domain,) = data.domains
    assert (data.labels, domain.name) == (("dent", "flash"), "parts")
    rows = list(csv.DictReader((tmp_path / "folds-parts.csv").read_text().splitlines()))
    folds = {row["group"]: row["fold"] for row in rows}
    assert len(rows) == 48 and all(row["fold"] == folds[row["group"]] for row in rows)
    aside = sum(row["fold"] == "val" for row in rows)
    assert len(domain.train) + len(domain.clean) + len(domain.held) == 48 - aside and 6 <= aside <= 14
    assert len(domain.clean) and not domain.simulated
    assert {int(label) for picture in domain.train for label in picture.labels} == {0, 1}
    dark, bright = (next(p for p in domain.train if p.labels[0] == kind) for kind in (0, 1))
    for picture, grey in ((dark, 10), (bright, 240)):
        x1, y1, x2, y2 = picture.boxes[0].astype(int)
        assert (picture.image[y1:y2, x1:x2] == grey).all()


def test_a_fold_of_a_cross_validation_writes_no_table_that_is_gone_afterwards(
    coco: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_detection_data(config(coco, out=tmp_path, val_share=0.2, held_number=1))
    assert not list(tmp_path.glob("folds-*.csv")) and "copy" not in caplog.text


def test_types_of_several_sets_are_put_together_by_name(coco: Path, tmp_path: Path) -> None:
    steel = write_strips(tmp_path / "strip", {"train": 9})
    data = load_detection_data(config(coco, steel, out=tmp_path))
    assert data.labels[:2] == ("dent", "flash") and set(data.labels[2:]) == set(LABELS[:6])
    strip = data.domains[1]
    assert all(2 <= label < 8 for picture in strip.train for label in picture.labels)
    counts = canvases_per_domain(config(coco, steel, batch=10), data.domains)
    assert sum(counts) == 10 and min(counts) >= 1 and counts[0] > counts[1]
    batch = Mixer(data.domains, counts, config=config(coco, steel, batch=10)).batch(0, mosaics=True)
    assert batch.images.shape == (10, 1, 64, 64)


def test_large_defects_are_scaled_and_small_ones_cut_and_frames_reach_the_network_at_that_scale() -> None:
    assert choose_framing([boxed(640, 200, 90)], 224) == "scale"
    assert choose_framing([boxed(640, 20, 25)], 224) == "cut"
    assert choose_framing([boxed(200, 5)], 224) == "scale"
    assert prepare(np.zeros((900, 450), np.uint8), preprocess_for(["scale"], [900], 224))[0].shape == (1, 1, 224, 128)
    assert prepare(np.zeros((700, 500), np.uint8), preprocess_for(["cut"], [700], 224))[1].scale_x == 1
    large, picture = preprocess_for(["cut"], [4000], 224), boxed(2560, 100)
    seen = as_seen(picture, large)
    assert seen.image.shape == (1280, 1280) and prepare(picture.image, large)[1].scale_x == 0.5
    np.testing.assert_allclose(seen.boxes, [[0, 0, 50, 50]])
    assert preprocess_for(["scale", "cut"], [200, 640], 224).max_side == 640
    with pytest.raises(TrainingError, match="scaled and another"):
        preprocess_for(["scale", "cut"], [900, 640], 224)


def test_said_framing_holds_and_canvases_are_cut_at_the_pictures_scale(coco: Path, tmp_path: Path) -> None:
    said = config(coco, out=tmp_path, framing={"parts": "cut"}, canvas_sizes=(64, 96))
    (domain,) = load_detection_data(said).domains
    assert domain.framing == OWN["cut"]
    mixer = Mixer((domain,), (8,), config=said)
    assert {mixer.size_at(step) for step in range(20)} == {64, 96}
    for step in range(4):
        batch = mixer.batch(step, mosaics=False)
        assert batch.images.shape[2:] == (mixer.size_at(step),) * 2
        sides = batch.boxes[batch.labels >= 0][:, 2:] - batch.boxes[batch.labels >= 0][:, :2]
        assert float(sides.max()) <= 48 * 1.11


def test_images_without_boxes_and_sets_with_too_few_are_refused(tmp_path: Path) -> None:
    for grey, name in enumerate(("a", "b")):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(10):
            cv2.imwrite(str(tmp_path / "classes" / name / f"{number}.jpg"), np.full((9, 9), 100 * grey, np.uint8))
    with pytest.raises(DatasetError, match="whole images"):
        load_detection_data(config(tmp_path / "classes"))
    with pytest.raises(DatasetError, match="too few"):
        load_detection_data(config(write_coco(tmp_path / "one", 1)))


def test_a_start_keeps_what_it_knows_of_types_that_the_data_have_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_detector(SurfaceDetector(3, channels=16).eval(), tmp_path / "float.onnx")
    (tmp_path / "training.json").write_text('{"labels": ["dent", "hole", "stain"]}')
    frames = [torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    start = open_start(tmp_path, frames)
    with torch.no_grad():
        before = start.network.module.eval()(frames[0])
        assert take_labels(start, ("dent", "hole", "stain"), heads=3) == "all 3 types are known to it"
        said = take_labels(start, ("burr", "stain", "dent", "crack"), heads=3, bias=PRIOR_BIAS)
        after = start.network.module.eval()(frames[0])
    assert said == "stain, dent known to it; burr, crack new"
    for old, new in zip(before[:3], after[:3], strict=True):
        torch.testing.assert_close(new[:, [1, 2]], old[:, [2, 0]])
    assert all(torch.equal(old, new) for old, new in zip(before[3:], after[3:], strict=True))
    assert float(after[0][:, [0, 3]].sigmoid().mean()) == pytest.approx(PRIOR, rel=0.2)


def test_a_start_that_knows_none_of_the_types_begins_its_heads_anew_and_a_weights_file_is_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_detector(SurfaceDetector(2, channels=16).eval(), tmp_path / "float.onnx")
    (tmp_path / "training.json").write_text('{"labels": ["dent", "hole"]}')
    start = open_start(tmp_path, [torch.randn(2, 1, 64, 64)])
    assert "begin anew" in take_labels(start, ("burr", "crack"), heads=3, bias=PRIOR_BIAS)
    with torch.no_grad():
        scores = start.network.module.eval()(torch.zeros(1, 1, 64, 64))[0].sigmoid()
    assert float(scores.mean()) == pytest.approx(PRIOR, rel=0.2), "of as many types, but of others"
    (tmp_path / "best.pt").write_bytes(b"weights")
    with pytest.raises(UnsupportedModelError, match="finished run"):
        open_start(tmp_path / "best.pt", [])


def test_a_detector_begins_with_the_shipped_one_where_nothing_else_is_chosen(tmp_path: Path) -> None:
    common: dict[str, Any] = {"data": (tmp_path,), "out": tmp_path / "out"}
    assert DetectorConfig(**common).first_model == zoo.path("surface-12")
    assert DetectorConfig(**common, start=tmp_path).first_model == tmp_path
    assert DetectorConfig(**common, architecture="lite0@96").first_model is None
    assert DetectorConfig(**common, architectures=("lite0@96", "lite0@64")).first_model is None
    with pytest.raises(TrainingError, match="architecture"):
        DetectorConfig(**common, architecture="lite0@96", start=tmp_path)


@pytest.mark.slow
def test_a_coco_folder_becomes_a_bundle_that_evaluate_and_inspect_take(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = tmp_path / "run", tmp_path / "parts"
    shutil.copytree(coco, data)
    said = ["--data", str(data), "--out", str(run), "--canvas", "64", "--canvas-sizes", "64,96", "--balance", "0.5"]
    more = [
        "--architecture",
        "lite0-short@16",
        "--epochs",
        "2",
        "--batch",
        "8",
        "--evaluate-every",
        "1",
        "--threads",
        "1",
        "--held-share",
        "0.2",
    ]
    assert main(["train", "detector", *said, *more, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["held_map50"].keys() == {"parts"}
    facts = json.loads((run / "training.json").read_text())
    assert facts["labels"] == ["dent", "flash"] and facts["images"]["parts"]["framing"] == "scale"
    assert [row["step"] for row in facts["losses"]] == [facts["steps"] // 2, facts["steps"]]
    bundle = tmp_path / "bundle"
    shutil.copy(run / "folds-parts.csv", data / "folds.csv")
    made = ["bundle", "from-run", str(run), str(bundle), "--name", "parts", "--level", "0", "--data", str(data)]
    assert main([*made, "--min-metric", "0"]) == 0  # two epochs find nothing
    capsys.readouterr()
    assert main(["evaluate", str(bundle), "--data", str(data), "--fold", "val", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["per_class"]) == {"dent", "flash"}
    assert main(["inspect", str(data / "images" / "p0-a.png"), "--model", str(bundle), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["inspections"]) == 1
