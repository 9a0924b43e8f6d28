"""Real boards: one place each of three designs of DeepPCB's train fold."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside_converters.data.part_variation import PartVariation, displace, vary
from lineside_models.datasets import Sample, load_dataset
from lineside_models.datasets.base import read_pixels
from lineside_models.frame import Frame
from lineside_models.reference.learning import learn_reference
from lineside_models.reference.packaging import write_bundle
from lineside_models.vision import ImageInspector
from lineside_runtime.errors import RegistrationError

DATA = Path(os.environ.get("LINESIDE_DATA", "")) / "deeppcb"
DISPLACED = PartVariation(shift_px=5, rotation_deg=2, brightness=0.1)

pytestmark = pytest.mark.skipif(
    not ("LINESIDE_DATA" in os.environ and DATA.is_dir()), reason="LINESIDE_DATA names no folder with deeppcb"
)


def places() -> list[Sample]:
    by_design: dict[str, Sample] = {}
    for sample in load_dataset(DATA, "train", references=True).samples:
        by_design.setdefault(sample.path.parent.name, sample)
    return list(by_design.values())[:3]


def test_displaced_boards_of_each_design(tmp_path: Path) -> None:
    samples = places()
    for number, sample in enumerate(samples):
        assert sample.reference is not None
        template = read_pixels(sample.reference, cv2.IMREAD_GRAYSCALE)
        rng = np.random.default_rng(number)
        good = [Frame(image=vary(template, DISPLACED, rng)) for _ in range(14)]
        bundle = write_bundle(learn_reference(good[:10], [template]), tmp_path / str(number), name=f"place-{number}")
        photo = displace(read_pixels(sample.path, cv2.IMREAD_GRAYSCALE), shift=np.array([5.0, -5.0]), rotation_deg=2.0)
        bad = np.asarray((photo * 0.9).clip(0, 255), np.uint8)
        with ImageInspector(bundle.path) as inspector:
            assert sum(not each.passed for each in inspector.predict(good[10:])) <= 1
            (verdict,) = inspector.predict(bad)
            assert len(verdict.detections) >= 0.7 * len(sample.boxes)
            with pytest.raises(RegistrationError):
                inspector.predict(samples[number - 1].path)
