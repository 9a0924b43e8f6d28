"""YOLO11n in ultralytics' environment, to ONNX: ``train_yolo.py SETTINGS``, a JSON object of `main`'s arguments.

Without data the weights stay as they begin, for what only speed is asked of. Nothing is fetched: pretrained weights are
a file that is named.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from ultralytics import YOLO


def main(
    *,
    outputs: dict[str, int],
    train_side: int = 0,
    data: str = "",
    minutes: float = 0,
    weights: str = "",
    seed: int = 0,
    threads: int = 2,
) -> None:
    """Trains where asked, and exports; ``last.pt`` holds the weights of the moving average.

    Args:
        outputs: ONNX file to the side of its input.
        train_side: Side of the training pictures.
        data: A ``data.yaml`` to train on; empty for no training.
        minutes: Wall time of the training.
        weights: A ``.pt`` file to begin with; empty for random weights.
        seed: Of everything random.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        yolo = YOLO(weights or "yolo11n.yaml")
        if data:
            yolo.train(
                data=data,
                imgsz=train_side,
                time=minutes / 60,
                seed=seed,
                device="cpu",
                workers=0,
                project=folder,
                name="run",
                pretrained=weights or False,
                plots=False,
                verbose=False,
                val=False,
                amp=False,
            )
            trained = Path(folder) / "run" / "weights" / "last.pt"
        else:
            trained = Path(folder) / "yolo11n.pt"
            yolo.ckpt_path = yolo.model.pt_path = str(trained)
        for output, side in outputs.items():
            again = YOLO(trained) if data else yolo
            made = again.export(format="onnx", imgsz=side, opset=17, simplify=False, device="cpu")
            shutil.move(made, output)


main(**json.loads(sys.argv[1]))
