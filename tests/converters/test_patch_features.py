"""The shipped features are what this release's maker would write."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lineside_models import zoo
from lineside_models.anomaly.names import HEAD_FILE, OUTPUTS_FILE, SEARCH_FILE
from lineside_models.golden import replay
from lineside_runtime.bundle import open_bundle
from lineside_runtime.config import Config
from lineside_runtime.session import Session

pytestmark = pytest.mark.torch


def test_the_shipped_pieces_fit_one_another_and_this_release() -> None:
    pytest.importorskip("torch")
    from lineside_converters.bundles.patch_features import VARIANT, head_piece, search_piece

    bundle = open_bundle(zoo.path("patch-features"))
    assert bundle.file(SEARCH_FILE).read_bytes() == search_piece()
    assert bundle.file(HEAD_FILE).read_bytes() == head_piece()
    ending = bundle.file(OUTPUTS_FILE).read_bytes()
    model = bundle.file(VARIANT.file).read_bytes()
    assert model.endswith(ending)
    assert len(model) < 5_000_000
    with Session(bundle, Config(engines=("ort",), threads=1)) as session:
        assert min(replay(session, bundle).cosine.values()) > 0.99


def test_features_lie_where_the_part_differs() -> None:
    random = np.random.default_rng(0)
    off: dict[str, list[tuple[float, float]]] = {}
    with Session(zoo.path("patch-features"), Config(engines=("ort",), threads=1)) as session:
        for _ in range(8):
            good = np.float32(4) * cv2.GaussianBlur(random.normal(0, 20, (320, 320)).astype(np.float32), (0, 0), 3)
            x, y = (int(value) for value in random.integers(110, 210, 2))
            bad = cv2.circle(good.copy(), (x, y), 5, 120, -1)
            found = [session.predict(image[None, None] / np.float32(128)) for image in (good, bad)]
            for name, before in found[0].items():
                change = ((found[1][name] - before) ** 2).sum(axis=(0, 1))
                middles = (np.arange(len(change)) + 0.5) * (320 / len(change))
                at = [float((change.sum(axis=axis) * middles).sum() / change.sum()) for axis in (0, 1)]
                off.setdefault(name, []).append((at[0] - x, at[1] - y))
    assert {name: len(each) for name, each in off.items()} == {"features_16": 8, "features_32": 8}
    for name, each in off.items():
        assert np.abs(np.mean(each, axis=0)).max() < int(name.rpartition("_")[2]) / 2, name
