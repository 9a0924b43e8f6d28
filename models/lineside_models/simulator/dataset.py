"""The line simulator's frames as a data set in a folder: images beside ``boxes.csv`` and ``folds.csv``."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from lineside_models.labels import LABELS
from lineside_models.simulator import Kind, render


def write_frames(
    folder: Path,
    kind: Kind,
    count: int,
    *,
    first_seed: int,
    size: tuple[int, int] | None = None,
    defects: int | None = None,
    fold: str = "train",
) -> Path:
    """Writes frames that `lineside_models.datasets` reads, all of one fold.

    Args:
        folder: Made if it is not there.
        kind: ``steel`` or ``pcb``.
        first_seed: Of the first frame; the others follow it.
        size: See `render`.
        defects: See `render`.
        fold: ``train`` or ``val``.

    Returns:
        ``folder``.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    boxes, folds = ["image,class,x1,y1,x2,y2"], ["image,fold"]
    for number in range(count):
        frame, name = render(kind, first_seed + number, size=size, defects=defects), f"images/{number}.png"
        cv2.imwrite(str(folder / name), np.asarray(frame.image))
        folds.append(f"{name},{fold}")
        for label, box in zip(frame.labels, frame.boxes.tolist(), strict=True):
            boxes.append(f"{name},{LABELS[label]},{','.join(map(str, box))}")
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    (folder / "folds.csv").write_text("\n".join(folds) + "\n")
    return folder
