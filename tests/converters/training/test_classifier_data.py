"""Pictures of a classifier's training are resized as a device resizes its frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from lineside_converters.training.classification.data import ClassifierInput, load_classes, read_all
from lineside_converters.training.classification.objective import shown, to_tensor
from lineside_models.preprocess import prepare
from lineside_runtime.bundle import Preprocess

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("side", [24, 48, 80, 150])  # smaller than the input, between, and larger by more than half
def test_the_network_is_judged_on_what_a_device_gives_it(tmp_path: Path, side: int) -> None:
    images = {}
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for number in range(4):
            image = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
            cv2.imwrite(str(tmp_path / kind / f"{number}.png"), image)
            images[f"{kind}/{number}.png"] = image
    rows = [f"{name},{'val' if name.endswith('3.png') else 'train'}" for name in images]
    (tmp_path / "folds.csv").write_text("\n".join(["image,fold", *rows]) + "\n")
    look = ClassifierInput(48, "rgb", (120.0,), (60.0,))
    how = Preprocess(input="image", colour="rgb", resize="stretch", size=(48, 48), mean=(120.0,), std=(60.0,))
    crops = read_all([tmp_path], ("a", "b"), look=look, fold="val")
    seen = to_tensor(shown(crops, look), look).numpy()
    on_device = [prepare(image, how)[0] for name, image in images.items() if name.endswith("3.png")]
    assert np.allclose(seen, np.concatenate(on_device), atol=1e-5)
    data = load_classes([tmp_path], look=look, held_share=0.3)
    assert data.held.images.shape[1:] == (48, 48, 3)
    kept = min(side, look.kept_px)  # nothing is enlarged before it is augmented
    assert data.train.images.shape[1:] == (kept, kept, 3)
