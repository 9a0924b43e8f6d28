"""A segmenter: its loss and figure, and a small run to a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import onnxruntime as ort
import torch

from lineside_converters.optimizer import Optimizer
from lineside_converters.pixel_metrics import iou_by_label
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_converters.training.segmentation.data import load_masked
from lineside_converters.training.segmentation.objective import SegmentationObjective, dice_loss, preprocess_of, segment
from lineside_converters.training.segmentation.trainer import area_min, train_segmenter
from lineside_models.networks import from_state_dict
from lineside_models.postprocess import decode
from lineside_models.preprocess import prepare
from lineside_runtime.errors import DatasetError
from tests.worlds.annotated_sets import squares, write_masks

pytestmark = pytest.mark.torch


def settings(folder: Path, out: Path, **more: Any) -> SegmenterConfig:
    common: dict[str, Any] = {"epochs": 2, "batch": 6, "side_px": 64, "channels": 16, "threads": 1, "held_share": 0.2}
    return SegmenterConfig(data=(folder,), out=out, **(common | {"evaluate_every": 1} | more))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masks(tmp_path_factory.mktemp("masks") / "tiles", 30)


def test_iou_is_that_of_sets_of_pixels() -> None:
    rng = np.random.default_rng(0)
    true, found = rng.integers(0, 3, (2, 500))
    table = np.zeros((4, 4), np.int64)
    np.add.at(table, (true, found), 1)
    wanted = [
        len(a & b) / len(a | b)
        for a, b in ((set(np.flatnonzero(true == n)), set(np.flatnonzero(found == n))) for n in (1, 2))
    ]
    assert iou_by_label(table) == [pytest.approx(wanted[0]), pytest.approx(wanted[1]), None]


def test_dice_is_nothing_where_all_is_right_and_one_where_all_is_wrong() -> None:
    masks = torch.zeros((1, 8, 8), dtype=torch.int64)
    masks[0, 2:6, 2:6] = 1
    right = torch.nn.functional.one_hot(masks, 3).permute(0, 3, 1, 2) * 40.0
    assert float(dice_loss(right, masks)) == pytest.approx(0.0, abs=1e-3)
    assert float(dice_loss(right.roll(1, 1), masks)) > 0.9
    assert float(dice_loss(right, torch.zeros_like(masks))) == 0.0


def test_canvases_show_a_mask_where_they_show_its_square(folder: Path, tmp_path: Path) -> None:
    data = load_masked(settings(folder, tmp_path))
    assert data.labels == ("dent", "flash") and data.held
    objective = SegmentationObjective(data, how=preprocess_of(64), batch=8, balance=0.0, seed=0)
    for batch in objective.batches(0, lambda _: 1.0):
        greys = batch.images[:, 0] * 128 + 127
        for kind, low, high in ((1, 0, 90), (2, 140, 255)):
            inside = torch.nn.functional.max_pool2d((batch.masks != kind).float()[:, None], 3, 1, 1)[:, 0] == 0
            assert ((greys[inside] >= low) & (greys[inside] <= high)).all() and inside.any()
        break


@pytest.mark.slow
def test_a_small_run_leaves_what_a_bundle_needs(folder: Path, tmp_path: Path) -> None:
    heard: list[object] = []
    result = train_segmenter(settings(folder, tmp_path / "run"), heard.append)
    facts = json.loads(Path(result.facts).read_text())
    assert facts["labels"] == ["dent", "flash"] and len(heard) == facts["steps"]
    assert facts["held_mean_iou"] == pytest.approx(np.mean(list(result.held_iou.values())))
    assert len(list((tmp_path / "run").glob("folds-tiles.csv"))) == 1

    model = from_state_dict(torch.load(result.weights, weights_only=True))
    image = squares(0, 64)[0]
    tensor, letterbox = prepare(image, preprocess_of(64))
    (maps,) = ort.InferenceSession(result.onnx).run(["maps"], {"image": tensor})
    assert maps.shape == (1, 3, 16, 16)
    np.testing.assert_allclose(model(torch.from_numpy(tensor)).detach().numpy(), maps, atol=1e-3)
    assert segment(model, image, preprocess_of(64)).shape == image.shape

    built = Optimizer(tmp_path / "run", out=tmp_path / "bundle", name="tiles", optimization_level=0).run()
    manifest = built.bundle.manifest
    (found,) = decode({"maps": maps}, manifest.postprocess, [letterbox])
    assert manifest.labels == ("dent", "flash") and len(found.outlines) == len(found)


def test_pieces_are_left_out_below_half_of_the_true_ones_and_a_mask_of_another_size_is_named(
    folder: Path, tmp_path: Path
) -> None:
    data = load_masked(settings(folder, tmp_path))
    smallest = min(int((each.mask > 0).sum()) for each in data.train if len(each.labels))
    assert 1 <= area_min(data, 64) <= max(1, smallest / 16)
    other = write_masks(tmp_path / "tiles", 12)
    cv2.imwrite(str(other / "masks" / "m3.png"), np.ones((9, 9), np.uint8))
    with pytest.raises(DatasetError, match=r"m3\.jpg"):
        load_masked(settings(other, tmp_path / "run"))
