"""Small data sets in the layouts of NEU-DET and DeepPCB, drawn by the line simulator."""

from __future__ import annotations

from pathlib import Path

import cv2

from lineside_models.labels import LABELS, PCB
from lineside_models.simulator import render


def write_steel(root: Path, count: int) -> Path:
    """Writes ``count`` train images with defects in NEU-DET's layout."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    rows = ["image,class,fold"]
    for number in range(count):
        frame = render("steel", number, defects=2)
        cv2.imwrite(str(root / "images" / f"s_{number}.jpg"), frame.image)
        objects = "".join(
            f"<object><name>{LABELS[label]}</name><bndbox><xmin>{x1 + 1:.0f}</xmin><ymin>{y1 + 1:.0f}</ymin>"
            f"<xmax>{x2:.0f}</xmax><ymax>{y2:.0f}</ymax></bndbox></object>"
            for (x1, y1, x2, y2), label in zip(frame.boxes.round().tolist(), frame.labels.tolist(), strict=True)
        )
        (root / "annotations" / f"s_{number}.xml").write_text(f"<annotation>{objects}</annotation>")
        rows.append(f"s_{number}.jpg,x,train")
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root


def write_boards(root: Path, count: int) -> Path:
    """Writes ``count`` train images and as many clean templates in DeepPCB's layout."""
    images, notes = root / "PCBData" / "group1" / "1", root / "PCBData" / "group1" / "1_not"
    images.mkdir(parents=True)
    notes.mkdir()
    rows = ["image,fold,template_included"]
    for number in range(count):
        frame = render("pcb", number, defects=5)
        cv2.imwrite(str(images / f"{number}_test.jpg"), frame.image)
        cv2.imwrite(str(images / f"{number}_temp.jpg"), render("pcb", number, defects=0).image)
        lines = [
            " ".join(str(round(v)) for v in box) + f" {PCB.index(LABELS[label]) + 1}"
            for box, label in zip(frame.boxes.tolist(), frame.labels.tolist(), strict=True)
        ]
        (notes / f"{number}.txt").write_text("\n".join(lines))
        rows.append(f"group1/1/{number}_test.jpg,train,1")
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root
