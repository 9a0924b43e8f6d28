"""Frames for a try of `lineside learn-good`: ``python -m lineside.demo.strip_frames FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2

from lineside_models.simulator import render

GOOD = 50
NEW_GOOD, NEW_BAD = 12, 12


def write_frames(folder: Path) -> None:
    """Writes frames of the line simulator: good ones into ``good``, further good and bad ones into ``new``.

    Args:
        folder: Made if missing; files of the same names are replaced.
    """
    for name, first, count, defects in (("good", 0, GOOD, 0), ("new", 500, NEW_GOOD, 0), ("new", 600, NEW_BAD, 2)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for seed in range(first, first + count):
            kind = "bad" if defects else "good"
            cv2.imwrite(str(folder / name / f"{kind}-{seed}.png"), render("steel", seed, defects=defects).image)


if __name__ == "__main__":
    write_frames(Path(sys.argv[1]))
