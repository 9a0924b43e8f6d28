"""`lineside demo` on a folder of photos, one of them broken: bundles are calibrated on them, each is inspected once."""

from __future__ import annotations

from pathlib import Path

import cv2

from lineside_models.simulator import render
from tests.demo.test_demo import demo


def test_folder_of_photos_with_a_broken_one(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(11):
        cv2.imwrite(str(photos / f"part-{seed:02d}.png"), render("steel", seed).image)
    (photos / "part-99.png").write_bytes(b"not a picture")
    said = demo(tmp_path / "out", "--images", str(photos), "--frames", "60")
    assert said["frames"] == said["synced"] == 12
    assert said["inspected"] == 11
    assert said["faults"] == 1
    assert (said["lost"], said["duplicates"]) == (0, 0)
    assert "simulator" in said["accuracy_on"], "photos come without truth: accuracy can only be of drawn frames"
