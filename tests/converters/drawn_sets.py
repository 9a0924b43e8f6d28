"""Annotated folders of simulator frames, in the layouts that evaluations read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2

from lineside_models.labels import LABELS, PCB
from lineside_models.simulator import render

VOC_OBJECT = (
    "<object><name>{name}</name><bndbox>"
    "<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def write_voc(root: Path, folds: dict[str, int], *, first_seed: int = 100) -> Path:
    """Writes frames of steel strip, so many a fold, laid out like NEU-DET; some show no defect."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    rows, seed = ["image,fold"], first_seed
    for fold, count in folds.items():
        for _ in range(count):
            frame = render("steel", seed)
            cv2.imwrite(str(root / "images" / f"s{seed}.png"), frame.image)
            objects = "".join(
                VOC_OBJECT.format(box[0] + 1, box[1] + 1, box[2], box[3], name=LABELS[label])
                for box, label in zip(frame.boxes.tolist(), frame.labels.tolist(), strict=True)
            )
            (root / "annotations" / f"s{seed}.xml").write_text(f"<annotation>{objects}</annotation>")
            rows.append(f"s{seed}.png,{fold}")
            seed += 1
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root


def write_coco(root: Path, count: int, *, first_seed: int = 500) -> Path:
    """Writes frames of boards as one COCO fold, ``val``."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        frame = render("pcb", first_seed + number)
        cv2.imwrite(str(root / "images" / f"b{number}.png"), frame.image)
        images.append({"id": number + 10, "file_name": f"b{number}.png", "width": 640, "height": 640})
        for (x1, y1, x2, y2), label in zip(frame.boxes.tolist(), frame.labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number + 10, "bbox": box, "category_id": label + 3}
            )
    content = {
        "images": images,
        "annotations": [{**one, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0} for one in annotations],
        "categories": [{"id": LABELS.index(name) + 3, "name": name} for name in PCB],
    }
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return root


def write_deeppcb(root: Path, folds: dict[str, int]) -> Path:
    """Writes frames of boards with their clean templates, laid out like DeepPCB."""
    rows, number = ["image,fold"], 0
    for fold, count in folds.items():
        for _ in range(count):
            board = root / "PCBData" / "group1" / "1"
            (board.parent / "1_not").mkdir(parents=True, exist_ok=True)
            board.mkdir(exist_ok=True)
            frame = render("pcb", 900 + number, defects=3)
            cv2.imwrite(str(board / f"{number:03d}_test.jpg"), frame.image)
            cv2.imwrite(str(board / f"{number:03d}_temp.jpg"), render("pcb", 900 + number, defects=0).image)
            lines = [
                " ".join([*(str(int(side)) for side in box), str(PCB.index(LABELS[label]) + 1)])
                for box, label in zip(frame.boxes.tolist(), frame.labels.tolist(), strict=True)
            ]
            (board.parent / "1_not" / f"{number:03d}.txt").write_text("\n".join(lines))
            rows.append(f"group1/1/{number:03d}_test.jpg,{fold}")
            number += 1
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root
