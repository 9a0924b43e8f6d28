"""A bare ONNX Runtime with OpenCV before it and nothing behind it, one thread: it finds nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving import Boxes, Call, serve


def load(kind: str, model: Path, frame: Path) -> tuple[Call, Boxes]:
    import cv2
    import numpy as np
    import onnxruntime

    image = np.load(frame)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    mean, scale = (0.0, 1 / 255) if kind == "detector" else (127.0, 1 / 128)
    side = image.shape[0] // 2

    def call() -> Any:
        tensor = cv2.dnn.blobFromImage(image, scale, (side, side), (mean,) * 3, swapRB=True)
        return session.run(None, {name: tensor})

    return call, lambda _: []


serve(load)
