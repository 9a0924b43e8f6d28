"""A small data set of classes that a network learns in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("coarse", "fine", "plain")
WAVES = (0.25, 1.0, 0.0)
"""Radians a pixel; the same whichever way a picture is turned."""

SIDE = 64


def textures(root: Path, folds: Mapping[str, int]) -> Path:
    """Writes coarse, fine and no waves in noise, a folder a class, so many a fold; done once."""
    if root.is_dir():
        return root
    half = root.with_name(f"{root.name}.half")
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    rows = ["image,fold"]
    for number, fold in enumerate([fold for fold, count in folds.items() for _ in range(count)]):
        label = number % len(CLASSES)
        turn, phase = generator.uniform(0, 2 * np.pi, 2)
        along = x * np.cos(turn) + y * np.sin(turn)
        wave = np.sin(along * WAVES[label] + phase) + generator.normal(0, 0.3, (SIDE, SIDE))
        name = f"{CLASSES[label]}/{number}.png"
        (half / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(half / name), (wave * 40 + 127).clip(0, 255).astype(np.uint8))
        rows.append(f"{name},{fold}")
    (half / "folds.csv").write_text("\n".join(rows) + "\n")
    half.rename(root)
    return root
