"""``ultralytics``' own predict on its own export, as its documentation shows it; detectors only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving import Boxes, Call, serve


def load(kind: str, model: Path, frame: Path) -> tuple[Call, Boxes]:
    import numpy as np
    from ultralytics import YOLO

    image = np.load(frame)
    yolo = YOLO(model, task="detect")

    def boxes(results: Any) -> list[list[float]]:
        found = results[0].boxes
        rows = zip(found.cls.tolist(), found.conf.tolist(), found.xyxy.tolist(), strict=True)
        return [[number, score, *corners] for number, score, corners in rows]

    return lambda: yolo.predict(image, imgsz=640, device="cpu", verbose=False), boxes


serve(load)
