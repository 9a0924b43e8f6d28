"""``openvino-model-api``'s wrappers, one thread; in f32, as the others compute (OpenVINO's default may be bf16)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving import Boxes, Call, serve

IMAGENET = {
    "labels": [str(number) for number in range(1000)],
    "topk": 1,
    "resize_type": "standard",
    "reverse_input_channels": True,
    "mean_values": [127.0] * 3,
    "scale_values": [128.0] * 3,
}
"""What lite0's weights were trained on; see `benchmarks.inputs.networks`."""


def load(kind: str, model: Path, frame: Path) -> tuple[Call, Boxes]:
    import numpy as np
    from model_api.adapters import OpenvinoAdapter, create_core
    from model_api.models import ClassificationModel, YOLOv8

    image = np.load(frame)
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    adapter = OpenvinoAdapter(create_core(), str(model), device="CPU", plugin_config=config)
    if kind == "detector":
        wrapper = YOLOv8(adapter, {}, preload=True)
    else:
        wrapper = ClassificationModel(adapter, IMAGENET, preload=True)
    return lambda: wrapper(image), boxes if kind == "detector" else classes


def boxes(result: Any) -> list[list[float]]:
    rows = zip(result.labels, result.scores, result.bboxes, strict=True)
    return [[float(number), float(score), *map(float, corners)] for number, score, corners in rows]


def classes(result: Any) -> list[list[float]]:
    return [[float(one.id), float(one.confidence)] for one in result.top_labels]


serve(load)
