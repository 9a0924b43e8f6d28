"""Small annotated data sets in the layouts of NEU-DET, DeepPCB and COCO, drawn by the line simulator or of squares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lineside_models.labels import LABELS, PCB
from lineside_models.simulator import render


def write_strips(root: Path, folds: Mapping[str, int], *, first_seed: int = 0, defects: int | None = 2) -> Path:
    """Writes so many frames of steel strip a fold in NEU-DET's layout; ``defects`` of ``None`` draws their number."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    rows = ["image,fold"]
    for seed, fold in _numbered(folds, first_seed):
        frame = render("steel", seed, defects=defects)
        cv2.imwrite(str(root / "images" / f"s{seed}.png"), frame.image)
        objects = "".join(
            f"<object><name>{LABELS[label]}</name><bndbox><xmin>{x1 + 1:.0f}</xmin><ymin>{y1 + 1:.0f}</ymin>"
            f"<xmax>{x2:.0f}</xmax><ymax>{y2:.0f}</ymax></bndbox></object>"
            for (x1, y1, x2, y2), label in zip(frame.boxes.round().tolist(), frame.labels.tolist(), strict=True)
        )
        (root / "annotations" / f"s{seed}.xml").write_text(f"<annotation>{objects}</annotation>")
        rows.append(f"s{seed}.png,{fold}")
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root


def write_boards(
    root: Path, folds: Mapping[str, int], *, first_seed: int = 0, defects: int = 5, side: int = 640
) -> Path:
    """Writes so many frames of boards a fold, each with its clean template, in DeepPCB's layout."""
    images, notes = root / "PCBData" / "group1" / "1", root / "PCBData" / "group1" / "1_not"
    images.mkdir(parents=True)
    notes.mkdir()
    rows = ["image,fold,template_included"]
    for seed, fold in _numbered(folds, first_seed):
        frame = render("pcb", seed, size=(side, side), defects=defects)
        cv2.imwrite(str(images / f"{seed}_test.jpg"), frame.image)
        cv2.imwrite(str(images / f"{seed}_temp.jpg"), render("pcb", seed, size=(side, side), defects=0).image)
        lines = [
            " ".join(str(round(v)) for v in box) + f" {PCB.index(LABELS[label]) + 1}"
            for box, label in zip(frame.boxes.tolist(), frame.labels.tolist(), strict=True)
        ]
        (notes / f"{seed}.txt").write_text("\n".join(lines))
        rows.append(f"group1/1/{seed}_test.jpg,{fold},1")
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root


def _numbered(folds: Mapping[str, int], first_seed: int) -> Iterator[tuple[int, str]]:
    """Yields a seed and the fold of each frame."""
    return enumerate((fold for fold, count in folds.items() for _ in range(count)), first_seed)


def write_coco_boards(root: Path, count: int, *, first_seed: int = 500) -> Path:
    """Writes frames of boards as one COCO fold, ``val``."""
    images, annotations = [], []
    (root / "images").mkdir(parents=True)
    for number in range(count):
        frame = render("pcb", first_seed + number)
        cv2.imwrite(str(root / "images" / f"b{number}.png"), frame.image)
        images.append({"id": number + 10, "file_name": f"b{number}.png", "width": 640, "height": 640})
        for (x1, y1, x2, y2), label in zip(frame.boxes.tolist(), frame.labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({"image_id": number + 10, "bbox": box, "category_id": label + 3})
    categories = [{"id": LABELS.index(name) + 3, "name": name} for name in PCB]
    return _write_coco(root, "val", images, categories, annotations)


def _write_coco(root: Path, fold: str, images: list[Any], categories: list[Any], annotations: list[Any]) -> Path:
    notes = [
        {**one, "id": number, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0}
        for number, one in enumerate(annotations, 1)
    ]
    (root / "annotations").mkdir(parents=True)
    content = {"images": images, "categories": categories, "annotations": notes}
    (root / "annotations" / f"instances_{fold}.json").write_text(json.dumps(content))
    return root


def write_coco(root: Path, count: int, *, side: int = 96) -> Path:
    """Writes ``count`` photos of dark and bright squares in COCO's layout, without folds; every sixth shows nothing.

    Images ``p<n>-a`` and ``p<n>-b`` show one part.
    """
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        image, boxes, kinds = squares(number, side)
        name = f"p{number // 2}-{'ab'[number % 2]}.png"
        cv2.imwrite(str(root / "images" / name), image)
        images.append({"id": number, "file_name": name})
        for (x1, y1, x2, y2), kind in zip(boxes, kinds, strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({"image_id": number, "category_id": 7 if kind else 3, "bbox": box})
    categories = [{"id": 3, "name": "dent"}, {"id": 7, "name": "flash"}]
    return _write_coco(root, "default", images, categories, annotations)


def write_masks(root: Path, count: int, *, side: int = 64) -> Path:
    """Writes ``count`` photos of dark and bright squares with masks of 1 and 2; every sixth shows nothing."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("dent\nflash\n")
    for number in range(count):
        image, boxes, kinds = squares(number, side)
        mask = np.zeros((side, side), np.uint8)
        for (x1, y1, x2, y2), kind in zip(boxes, kinds, strict=True):
            mask[y1:y2, x1:x2] = kind + 1
        cv2.imwrite(str(root / "images" / f"m{number}.jpg"), image)
        cv2.imwrite(str(root / "masks" / f"m{number}.png"), mask)
    return root


def squares(number: int, side: int) -> tuple[np.ndarray, list[tuple[int, int, int, int]], list[int]]:
    """Draws a noisy grey picture with a dark (0) or a bright (1) square, or none; its box and which it is."""
    rng = np.random.default_rng(number)
    image = rng.integers(100, 130, (side, side)).astype(np.uint8)
    if number % 6 == 5:
        return image, [], []
    length, kind = int(rng.integers(side // 4, side // 2)), number % 2
    x, y = (int(v) for v in rng.integers(0, side - length, 2))
    image[y : y + length, x : x + length] = 240 if kind else 10
    return image, [(x, y, x + length, y + length)], [kind]
