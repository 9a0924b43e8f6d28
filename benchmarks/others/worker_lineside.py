"""`ImageInspector` on a bundle of the same file, one thread; ``LINESIDE_BENCH_ENGINE`` names the engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from serving import Boxes, Call, serve


def load(kind: str, model: Path, frame: Path) -> tuple[Call, Boxes]:
    import numpy as np

    from lineside_models.vision import ImageInspector
    from lineside_runtime.config import Config

    image = np.load(frame)
    config = Config(threads=1, engines=(os.environ["LINESIDE_BENCH_ENGINE"],))
    threshold = 0.25 if kind == "detector" else 0.0
    inspector = ImageInspector(model, confidence_threshold=threshold, config=config)
    numbers = {name: number for number, name in enumerate(inspector.session.manifest.labels)}

    def boxes(verdicts: Any) -> list[list[float]]:
        found = verdicts[0].detections
        corners = 4 if kind == "detector" else 0
        return [[numbers[one.type], one.score, *one.box[:corners]] for one in found]

    return lambda: inspector.predict(image), boxes


serve(load)
