"""mAP@0.5 of a detector's finds, by pycocotools from the data set's own files; a script that imports none of lineside.

python outside_map50.py PREDICTIONS.json DATA [FOLD]

PREDICTIONS is what ``lineside evaluate --predictions`` wrote; DATA has annotations as COCO, Pascal VOC (NEU-DET) or
DeepPCB have them. Prints one JSON object: ``map50`` and ``ap50`` by type.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

DEEPPCB = ("open", "short", "mousebite", "spur", "copper", "pin-hole")

Truth = dict[str, list[tuple[str, list[float]]]]  # file name -> type, (x, y, width, height)


def voc(root: Path, fold: str) -> Truth:
    truth: Truth = {}
    for name in fold_files(root, fold) or [path.name for path in sorted((root / "images").iterdir())]:
        tree = xml.etree.ElementTree.parse(root / "annotations" / f"{Path(name).stem}.xml")
        found = truth.setdefault(f"images/{Path(name).name}", [])
        for one in tree.iter("object"):
            x1, y1, x2, y2 = (float(one.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
            found.append((one.findtext("name", ""), [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]))
    return truth


def deeppcb(root: Path, fold: str) -> Truth:
    truth: Truth = {}
    for name in fold_files(root, fold) or []:
        image = Path("PCBData") / name
        text = image.parent.parent / f"{image.parent.name}_not" / f"{image.stem.removesuffix('_test')}.txt"
        found = truth.setdefault(image.as_posix(), [])
        for line in (root / text).read_text().splitlines():
            if line.strip():
                x1, y1, x2, y2, kind = map(int, line.split())
                found.append((DEEPPCB[kind - 1], [x1, y1, x2 - x1, y2 - y1]))
    return truth


def coco(root: Path, fold: str) -> Truth:
    content = json.loads((root / "annotations" / f"instances_{fold}.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    files = {one["id"]: f"images/{one['file_name']}" for one in content["images"]}
    truth: Truth = {name: [] for name in files.values()}
    for one in content["annotations"]:
        truth[files[one["image_id"]]].append((names[one["category_id"]], one["bbox"]))
    return truth


def fold_files(root: Path, fold: str) -> list[str] | None:
    if not (root / "folds.csv").is_file():
        return None
    with (root / "folds.csv").open(newline="") as file:
        return [row["image"] for row in csv.DictReader(file) if fold in ("all", row["fold"])]


def ap50(truth: Truth, predictions: list[dict[str, Any]]) -> dict[str, float]:
    # Finds of one score in several images are ranked in the images' order, which is that of their paths.
    images = {name: number for number, name in enumerate(sorted(truth, key=Path), 1)}
    types = sorted({kind for found in truth.values() for kind, _ in found} | {one["category"] for one in predictions})
    boxes = [(images[name], types.index(kind), box) for name, found in truth.items() for kind, box in found]
    judge = COCO()
    judge.dataset = {
        "images": [{"id": number} for number in images.values()],
        "categories": [{"id": number} for number in range(len(types))],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for n, (i, c, b) in enumerate(boxes, 1)
        ],
    }
    results = [
        {
            "image_id": images[one["file_name"]],
            "category_id": types.index(one["category"]),
            "bbox": one["bbox"],
            "score": one["score"],
        }
        for one in predictions
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        judge.createIndex()
        evaluation = COCOeval(judge, judge.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]  # IoU 0.5, all sizes, 100 finds
    return {
        kind: float(precision[:, number].mean())
        for number, kind in enumerate(types)
        if (precision[:, number] > -1).any()
    }


def main(predictions: str, data: str, fold: str = "all") -> None:
    root = Path(data)
    read = deeppcb if (root / "PCBData").is_dir() else voc if any((root / "annotations").glob("*.xml")) else coco
    by_type = ap50(read(root, fold), json.loads(Path(predictions).read_text()))
    print(json.dumps({"map50": sum(by_type.values()) / len(by_type), "ap50": by_type}))


if __name__ == "__main__":
    main(*sys.argv[1:])
