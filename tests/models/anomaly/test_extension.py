"""A model that was learned from one kind of part, extended by frames of another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineside_models import zoo
from lineside_models.anomaly.extension import extend, read_model
from lineside_models.anomaly.features import collect_features
from lineside_models.anomaly.learning import AnomalyModel, LearningOptions, learn
from lineside_models.anomaly.packaging import model_bytes, write_bundle
from lineside_models.frame import Frame
from lineside_models.simulator import render
from lineside_models.vision import ImageInspector
from lineside_runtime.bundle import open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import BundleFormatError, ConfigError


def _board(noise: int) -> Frame:
    """Returns a frame of one and the same board, with other noise."""
    image = render("pcb", 7, defects=0).image
    drawn = np.random.default_rng(noise).normal(0, 4, image.shape)
    return Frame(image=np.clip(image + drawn, 0, 255).astype(np.uint8), part_id=f"{noise}")


@pytest.fixture(scope="module")
def strip() -> AnomalyModel:
    frames = [Frame(image=render("steel", seed, defects=0).image, part_id=f"{seed}") for seed in range(14)]
    return learn(frames, LearningOptions(bank_bytes=64_000))


def test_good_parts_of_the_new_kind_pass_after_five_of_them_and_bad_strip_is_still_found(
    strip: AnomalyModel, tmp_path: Path
) -> None:
    found = extend(strip, collect_features([_board(number) for number in range(5)]))
    assert (found.frames, found.above_before, found.above_left_out) == (5, 5, 0)
    assert all(0 < entries <= 512 for entries in found.entries)
    bundle = write_bundle(found.model, tmp_path / "b", name="b").path
    with ImageInspector(bundle, None, config=Config(engines=("ort",), threads=1)) as inspector:
        good = inspector.predict([_board(number) for number in range(20, 24)])
        image = render("steel", 60).image.copy()
        image[80:110, 120:160] = 250
        (bad,) = inspector.predict(Frame(image=image))
    assert all(one.passed for one in good)
    assert not bad.passed


def test_a_model_is_read_from_its_bundle_as_it_was_written(strip: AnomalyModel, tmp_path: Path) -> None:
    read = read_model(write_bundle(strip, tmp_path / "b", name="b"))
    assert model_bytes(read) == model_bytes(strip)
    assert read.threshold == pytest.approx(strip.threshold) or read.threshold.value == strip.threshold.value
    assert (read.frames, read.parts, read.peak_cells) == (strip.frames, strip.parts, strip.peak_cells)


def test_other_bundles_and_other_features_are_refused(strip: AnomalyModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="surface-12"):
        read_model(open_bundle(zoo.path("surface-12")))
    bundle = write_bundle(strip, tmp_path / "b", name="b")
    model = bundle.file(bundle.manifest.variants[0].file)
    model.write_bytes(b"\x08\x07" + model.read_bytes())  # as of an older release
    with pytest.raises(BundleFormatError, match="Learn again"):
        read_model(bundle)
