"""Runs in an environment that has other projects' detectors: trains a small one on drawn frames, and exports it.

Usage: python detector_training.py KIND DATA OUT, with KIND ``yolox`` (YOLOX-Nano of `pixeltable-yolox`) or
``rt-detr`` (a narrow RT-DETR of `transformers`), and DATA a COCO set with the fold ``train``. It shows
that such networks can be evaluated and quantized; the weights are good for nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

SIDE, BATCH, STEPS = 128, 16, 900
RATES = {"yolox": 2e-3, "rt-detr": 6e-4}


def read(data: Path) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Returns images BGR, rows of label, centre and size in pixels, and the number of types."""
    content = json.loads((data / "annotations/instances_train.json").read_text())
    types = sorted(one["id"] for one in content["categories"])
    images, rows = [], []
    for entry in content["images"]:
        image: Any = cv2.imread(str(next(data.rglob(entry["file_name"]))))
        images.append(image)
        found = [one for one in content["annotations"] if one["image_id"] == entry["id"]]
        boxes = np.array([one["bbox"] for one in found], np.float32).reshape(-1, 4)
        labels = np.array([types.index(one["category_id"]) for one in found], np.float32)
        rows.append(np.concatenate([labels[:, None], boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1))
    return images, rows, len(types)


def flipped(image: np.ndarray, rows: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors a frame or not, in x and in y."""
    rows = rows.copy()
    for axis in (0, 1):
        if random.random() < 0.5:
            image = np.flip(image, 1 - axis)
            rows[:, 1 + axis] = SIDE - rows[:, 1 + axis]
    return image, rows


def yolox(classes: int) -> tuple[torch.nn.Module, Any, Any]:
    """Returns the network, its loss of a batch, and itself as it is exported."""
    from yolox.config import YoloxConfig

    network = YoloxConfig("nano", num_classes=classes, depth=0.33, width=0.25, depthwise=True).get_model()

    def loss(batch: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
        images = torch.from_numpy(np.stack([image.transpose(2, 0, 1) for image, _ in batch]).astype(np.float32))
        targets = torch.zeros(len(batch), 40, 5)
        for index, (_, rows) in enumerate(batch):
            targets[index, : len(rows)] = torch.from_numpy(rows)
        return network(images, targets)["total_loss"]

    network.head.decode_in_inference = False  # which the loss does not read
    return network, loss, network


def rt_detr(classes: int) -> tuple[torch.nn.Module, Any, Any]:
    """As `yolox`."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 48, 64, 96],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        num_labels=classes,
        d_model=64,
        encoder_hidden_dim=64,
        encoder_in_channels=[48, 64, 96],
        encoder_ffn_dim=128,
        encoder_attention_heads=4,
        decoder_in_channels=[64, 64, 64],
        decoder_ffn_dim=128,
        decoder_attention_heads=4,
        decoder_layers=2,
        num_queries=30,
        num_denoising=20,
        hidden_expansion=0.5,
        anchor_image_size=None,
    )
    network = RTDetrForObjectDetection(config)

    def loss(batch: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
        images = np.stack([image[..., ::-1].transpose(2, 0, 1) for image, _ in batch]).astype(np.float32) / 255
        labels = [
            {
                "class_labels": torch.from_numpy(rows[:, 0]).long(),
                "boxes": torch.from_numpy(rows[:, 1:] / SIDE).float(),
            }
            for _, rows in batch
        ]
        return network(pixel_values=torch.from_numpy(images), labels=labels).loss

    return network, loss, Tuples(network, lambda found: (found.logits, found.pred_boxes))


class Tuples(torch.nn.Module):
    """Gives chosen parts of a network's output."""

    def __init__(self, network: torch.nn.Module, parts: Any) -> None:
        super().__init__()
        self.network, self.parts = network, parts

    def forward(self, image: torch.Tensor) -> Any:
        return self.parts(self.network(image))


NAMES = {
    "yolox": (["images"], ["output"]),
    "rt-detr": (["pixel_values"], ["logits", "pred_boxes"]),
}


def main(kind: str, data: Path, out: Path) -> None:
    """Trains with a fixed schedule, and exports."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    images, rows, classes = read(data)
    network, loss_of, exported = (yolox if kind == "yolox" else rt_detr)(classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATES[kind], weight_decay=1e-3)
    network.train()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = (
                RATES[kind] * min(1.0, (step + 1) / 40) * (0.02 + 0.98 * (1 + np.cos(np.pi * step / STEPS)) / 2)
            )
        chosen = random.choice(len(images), BATCH)
        loss = loss_of([flipped(images[index], rows[index], random) for index in chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if step % 20 == 0:
            print(step, round(float(loss), 3), flush=True)
    network.eval()
    example = torch.zeros(1, 3, SIDE, SIDE)
    names = NAMES[kind]
    torch.onnx.export(
        exported.eval(),
        (example,),
        str(out),
        input_names=names[0],
        output_names=names[1],
        opset_version=16,
        dynamo=False,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
