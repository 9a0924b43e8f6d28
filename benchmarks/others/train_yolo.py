"""YOLO11n in ultralytics' environment, to ONNX: ``train_yolo.py OUT.onnx SIDE [DATA.yaml MINUTES SEED THREADS]``.

Without data its weights are random, for what only speed is asked of. With data it is trained from random weights, as
ultralytics does by default, for so many minutes of wall time: no pretrained weights are fetched.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from ultralytics import YOLO


def main(out: Path, side: int, data: str = "", minutes: float = 0, seed: int = 0, threads: int = 2) -> None:
    """Trains where asked, and exports; ``last.pt`` holds the weights of the moving average."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        yolo = YOLO("yolo11n.yaml")
        if data:
            yolo.train(
                data=data,
                imgsz=side,
                time=minutes / 60,
                seed=seed,
                device="cpu",
                workers=0,
                project=folder,
                name="run",
                pretrained=False,
                plots=False,
                verbose=False,
                val=False,
                amp=False,
            )
            yolo = YOLO(Path(folder) / "run" / "weights" / "last.pt")
        else:
            yolo.ckpt_path = yolo.model.pt_path = str(Path(folder) / "yolo11n.pt")
        made = yolo.export(format="onnx", imgsz=side, opset=17, simplify=False, device="cpu")
        shutil.move(made, out)


out, side, *rest = sys.argv[1:]
if rest:
    data, minutes, seed, threads = rest
    main(Path(out), int(side), data, float(minutes), int(seed), int(threads))
else:
    main(Path(out), int(side))
