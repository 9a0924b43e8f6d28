"""Runs in an environment that has ``ultralytics``: exports models of random weights, saves one, and says what it
finds with them.

Usage: python ultralytics_export.py IMAGE FOLDER. Prints one JSON object: file name to boxes, scores and labels.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ultralytics import YOLO

SIDE = 320
NETWORKS = {"yolov8n": 0.8, "yolo11n-seg": 0.5, "yolov10n": 0.8}
"""Name to the spread of the last layer's weights, chosen so that some boxes are found and not thousands."""


def main(image: str, folder: str) -> None:
    os.chdir(folder)
    found = {}
    for name, spread in NETWORKS.items():
        torch.manual_seed(0)
        model = YOLO(f"{name}.yaml")
        _enliven(model.model, image, spread)
        path = model.export(format="onnx", imgsz=SIDE, opset=17, simplify=False)
        task = model.task
        result = YOLO(path, task=task).predict(
            image, conf=0.25, iou=0.7, imgsz=SIDE, max_det=300, verbose=False, save=False
        )[0]
        if result.masks is not None:
            np.save(f"{name}.npy", result.masks.data.numpy().astype(np.uint8))
        found[Path(path).name] = {
            "boxes": result.boxes.xyxy.tolist(),
            "scores": result.boxes.conf.tolist(),
            "labels": [int(label) for label in result.boxes.cls.tolist()],
        }
    model = YOLO("yolov8n.yaml")
    torch.manual_seed(0)
    _enliven(model.model, image, NETWORKS["yolov8n"])
    model.save("trained.pt")
    checkpoint = torch.load("trained.pt", weights_only=False)
    checkpoint["train_args"] = {"imgsz": SIDE, "task": "detect"}  # what its trainer notes, and its exporter reads
    torch.save(checkpoint, "trained.pt")
    YOLO("trained.pt").export(format="onnx", opset=17, simplify=False)
    print("RESULT " + json.dumps(found))


def _enliven(net: Any, image: str, spread: float) -> None:
    """Gives an untrained network outputs that differ from place to place."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5
    picture = cv2.resize(cv2.imread(image), (SIDE, SIDE))[..., ::-1].copy()
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    net.train()
    with torch.no_grad():
        for _ in range(12):
            net(torch.cat([tensor, torch.rand_like(tensor)]))
    net.eval()
    head = net.model[-1]
    for kind, std, bias in (("cv3", spread, -7.0), ("cv2", 0.3, None), ("cv4", 1.0, None)):
        for branch in (getattr(head, kind, None), getattr(head, f"one2one_{kind}", None)):
            for layers in branch or ():
                torch.nn.init.normal_(layers[-1].weight, std=std)
                if bias is not None:
                    torch.nn.init.constant_(layers[-1].bias, bias)


if __name__ == "__main__":
    main(*sys.argv[1:])
