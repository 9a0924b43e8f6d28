"""The data sets for development; they are never part of the repository.

``LINESIDE_DATA`` names the folder that holds them; without it ``shared/data`` beside the repository, or further up, is
used.
"""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.smoke import SMOKE, kept
from lineside_models.labels import LABELS, PCB
from lineside_models.simulator import Kind, render

VARIABLE = "LINESIDE_DATA"


def shared(name: str) -> Path:
    """Returns the folder of a data set; in a smoke run of a small drawn one with the same layout.

    Raises:
        FileNotFoundError: It isn't on this machine.
    """
    if SMOKE:
        return _drawn(name)
    if given := os.environ.get(VARIABLE):
        if (folder := Path(given) / name).is_dir():
            return folder
        raise FileNotFoundError(f"{VARIABLE}={given} holds no folder {name}")
    for parent in Path(__file__).resolve().parents[3:]:
        folder = parent / "shared" / "data" / name
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no shared/data/{name} beside the repository; {VARIABLE} names the folder with {name}")


@functools.cache
def _drawn(name: str) -> Path:
    folder = kept(f"data-{os.getpid()}") / name
    folder.mkdir(parents=True)
    match name:
        case "neu-det":
            _write_boxes(folder, "steel", (200, 200), count=16)
        case "deeppcb":
            _write_boxes(folder, "pcb", (224, 224), count=8)
        case "deeppcb-pairs":
            _write_pairs(folder, count=8)
        case "x-sdd":
            _write_folders(
                folder, [f"{label}/{number}.png" for number in range(8) for label in ("red iron", "iron sheet ash")]
            )
        case "magnetic-tile":
            bad = [f"MT_Break/Imgs/exp1_num_{1000 * number + 40}.png" for number in range(4)]
            good = [f"MT_Free/Imgs/exp1_num_{1000 * number}.png" for number in range(10, 28)]
            _write_folders(folder, [*good, *bad])
        case "magnetic-tile-good":
            for number in range(32):
                _write_image(folder / "Imgs" / f"exp1_num_{1000 * (number // 8) + number % 8}.png", 100 + number)
        case "masked-tiles":
            _write_masks(folder, count=12)
        case "imagenet-sample":
            for number in range(8):
                _write_image(folder / "images" / f"{number}.jpg", number)
        case "imagenet-val-subset":
            for number in range(8):
                _write_image(folder / "data" / f"{number}.jpg", number)
            (folder / "dataset.txt").write_text("".join(f"./data/{number}.jpg, {number}\n" for number in range(8)))
        case "cuad":
            _write_table(folder / "master_clauses.csv", list(_clauses()))
            _write_document(folder / "pdf" / "0.pdf", folder / "txt" / "0.txt")
        case "sroie":
            _write_receipt(folder)
        case _:
            raise ValueError(f"no drawn data set {name}")
    return folder


def _write_document(pdf: Path, text: Path) -> None:
    from lineside_converters.certificates.pdf_writer import PdfCanvas, write_pdf

    canvas = PdfCanvas(300, 200)
    canvas.text(20, 40, "This agreement is made as of March 3, 2026")
    for path in (pdf, text):
        path.parent.mkdir(parents=True, exist_ok=True)
    pdf.write_bytes(write_pdf([canvas]))
    text.write_text("This agreement is made as of March 3, 2026")


def _write_receipt(folder: Path) -> None:
    image = np.full((200, 500), 255, np.uint8)
    cv2.putText(image, "TOTAL 60.30", (40, 100), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (0,), 2)
    cv2.imwrite(str(folder / "001.jpg"), image)
    (folder / "001.csv").write_text("40,70,260,70,260,110,40,110,TOTAL 60.30\n")
    (folder / "001.json").write_text('{"company": "", "date": "", "address": "", "total": "60.30"}')


def _clauses() -> Iterator[tuple[object, ...]]:
    """Yields a table of contracts with a clause of every type in each."""
    from benchmarks.converters.optimizer.text_encoder import TYPES

    yield ("Filename", *TYPES)
    for number in range(3):
        text = f"the party {number} of this agreement shall do what this clause"
        yield (f"{number}.pdf", *(str([f"{text} says of {name}, word by word"]) for name in TYPES))


def _write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.asarray(render("steel", seed).image))


def _write_boxes(folder: Path, kind: Kind, size: tuple[int, int], *, count: int) -> None:
    """Writes a table of boxes, of which the last quarter of the images is the val fold."""
    boxes: list[tuple[object, ...]] = [("image", "class", "x1", "y1", "x2", "y2")]
    for number in range(count):
        frame = render(kind, number, size=size, defects=2)
        name = f"images/{number}.png"
        (folder / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / name), np.asarray(frame.image))
        boxes += [(name, LABELS[label], *box) for label, box in zip(frame.labels, frame.boxes.tolist(), strict=True)]
    _write_table(folder / "boxes.csv", boxes)
    _write_folds(folder, [f"images/{number}.png" for number in range(count)])


def _write_masks(folder: Path, *, count: int) -> None:
    """Writes images with a mask beside each, in the layout of magnetic-tile."""
    for number in range(count):
        frame = render("steel", number, size=(96, 96), defects=1)
        place = folder / ("MT_Break", "MT_Crack")[number % 2] / f"{number}.jpg"
        place.parent.mkdir(exist_ok=True)
        mask = np.zeros((96, 96), np.uint8)
        for x1, y1, x2, y2 in frame.boxes.astype(int).tolist():
            mask[y1:y2, x1:x2] = 255
        cv2.imwrite(str(place), np.asarray(frame.image))
        cv2.imwrite(str(place.with_suffix(".png")), mask)


def _write_pairs(folder: Path, *, count: int) -> None:
    """Writes bad boards of two designs and their templates in DeepPCB's layout; all are the train fold."""
    names = []
    for number in range(count):
        place = folder / "PCBData" / "group" / str(number % 2)
        notes = place.with_name(f"{place.name}_not")
        for each in (place, notes):
            each.mkdir(parents=True, exist_ok=True)
        bad, good = (render("pcb", number, size=(224, 224), defects=defects) for defects in (3, 0))
        for frame, kind in ((bad, "test"), (good, "temp")):
            cv2.imwrite(str(place / f"{number}_{kind}.jpg"), np.asarray(frame.image))
        rows = zip(bad.boxes.round().astype(int).tolist(), bad.labels.tolist(), strict=True)
        lines = (" ".join(map(str, (*box, PCB.index(LABELS[label]) + 1))) for box, label in rows)
        (notes / f"{number}.txt").write_text("\n".join(lines))
        names.append((f"group/{place.name}/{number}_test.jpg", "train"))
    _write_table(folder / "folds.csv", [("image", "fold"), *names])


def _write_folders(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        _write_image(folder / name, number)
    _write_folds(folder, names)


def _write_folds(folder: Path, images: list[str]) -> None:
    count = len(images)
    rows = [(image, "val" if 4 * number >= 3 * count else "train") for number, image in enumerate(images)]
    _write_table(folder / "folds.csv", [("image", "fold"), *rows])


def _write_table(path: Path, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
