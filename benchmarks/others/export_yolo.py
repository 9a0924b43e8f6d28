"""Makes YOLOv8n with random weights into ONNX; runs in ultralytics' environment: ``export_yolo.py FRAME OUT``.

No weights are fetched: speed and memory don't depend on them. The bias of the class scores is moved until about
`WANTED` cells of the frame pass the threshold, so that decoding and suppression have something to do.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from ultralytics import YOLO

SIDE = 640
THRESHOLD = 0.25
WANTED = 300


def main(frame: Path, out: Path) -> None:
    """Exports."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        yolo = YOLO("yolov8n.yaml")
        head = yolo.model.model[-1]
        with torch.no_grad():
            settle(yolo.model, frame)
            move = logit(THRESHOLD) - float(best_logits(yolo.model.eval(), frame).sort(descending=True).values[WANTED])
            for branch in head.cv3:
                branch[-1].bias.add_(move)
        yolo.ckpt_path = yolo.model.pt_path = str(Path(folder) / "yolov8n.pt")
        made = yolo.export(format="onnx", imgsz=SIDE, opset=17, simplify=False, device="cpu")
        shutil.move(made, out)


def settle(model: torch.nn.Module, frame: Path) -> None:
    """Takes the normalisations' statistics from the frame: without them nothing reaches a random network's end."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all passes
    model.train()
    model(tensor_of(frame))


def best_logits(model: torch.nn.Module, frame: Path) -> torch.Tensor:
    """Returns the best class's logit of every cell."""
    return torch.logit(model(tensor_of(frame))[0][0, 4:].max(0).values, eps=1e-7)


def tensor_of(frame: Path) -> torch.Tensor:
    """Returns the frame as the network takes it, ``(1, 3, SIDE, SIDE)``."""
    image = np.load(frame)[::2, ::2, ::-1].transpose(2, 0, 1) / np.float32(255)
    return torch.from_numpy(image.copy())[None]


def logit(probability: float) -> float:
    return float(torch.logit(torch.tensor(probability)))


main(Path(sys.argv[1]), Path(sys.argv[2]))
