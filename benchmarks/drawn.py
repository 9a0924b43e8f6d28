"""Small annotated data sets for smoke runs, drawn by the line simulator in the layouts of the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from lineside_models.labels import LABELS
from lineside_models.simulator import render

FOLDS = {"train": 24, "val": 6}
CLASSES = ("coarse", "fine", "plain")
WAVES = (0.25, 1.0, 0.0)
"""Radians a pixel; the same whichever way a picture is turned."""

SIDE = 64


def steel(root: Path, folds: Mapping[str, int] = FOLDS) -> Path:
    """Writes frames of steel strip in NEU-DET's layout, so many a fold; done once."""
    if root.is_dir():
        return root
    half = root.with_name(f"{root.name}.half")
    for name in ("images", "annotations"):
        (half / name).mkdir(parents=True, exist_ok=True)
    rows = ["image,class,fold"]
    for number, fold in enumerate(_each(folds)):
        frame = render("steel", number, defects=2)
        cv2.imwrite(str(half / "images" / f"s_{number}.jpg"), frame.image)
        objects = "".join(
            f"<object><name>{LABELS[label]}</name><bndbox><xmin>{x1 + 1:.0f}</xmin><ymin>{y1 + 1:.0f}</ymin>"
            f"<xmax>{x2:.0f}</xmax><ymax>{y2:.0f}</ymax></bndbox></object>"
            for (x1, y1, x2, y2), label in zip(frame.boxes.round().tolist(), frame.labels.tolist(), strict=True)
        )
        (half / "annotations" / f"s_{number}.xml").write_text(f"<annotation>{objects}</annotation>")
        rows.append(f"s_{number}.jpg,x,{fold}")
    return _finished(half, root, rows)


def textures(root: Path, folds: Mapping[str, int] = FOLDS) -> Path:
    """Writes coarse, fine and no waves in noise, a folder a class, so many a fold; done once."""
    if root.is_dir():
        return root
    half = root.with_name(f"{root.name}.half")
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    rows = ["image,fold"]
    for number, fold in enumerate(_each(folds)):
        label = number % len(CLASSES)
        turn, phase = generator.uniform(0, 2 * np.pi, 2)
        along = x * np.cos(turn) + y * np.sin(turn)
        wave = np.sin(along * WAVES[label] + phase) + generator.normal(0, 0.3, (SIDE, SIDE))
        name = f"{CLASSES[label]}/{number}.png"
        (half / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(half / name), (wave * 40 + 127).clip(0, 255).astype(np.uint8))
        rows.append(f"{name},{fold}")
    return _finished(half, root, rows)


def _each(folds: Mapping[str, int]) -> list[str]:
    return [fold for fold, count in folds.items() for _ in range(count)]


def _finished(half: Path, root: Path, rows: list[str]) -> Path:
    (half / "folds.csv").write_text("\n".join(rows) + "\n")
    half.rename(root)
    return root
