"""What a detector found, as COCO's result format, so that anybody's tools can judge it.

https://cocodataset.org/#format-results: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``score``.
Images are numbered in the order of their paths, types in the bundle's order, both from 1; ``file_name`` (below the data
set's folder) and ``category`` say which is which.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from lineside_models.datasets import Sample
from lineside_models.postprocess import Candidates
from lineside_runtime.files import write_atomic


def write_predictions(
    path: Path, root: Path, samples: Sequence[Sample], found: Sequence[Candidates], labels: Sequence[str]
) -> None:
    """Writes every find above the raw floor, whole or not at all."""
    rows: list[dict[str, Any]] = []
    for number, (sample, each) in enumerate(zip(samples, found, strict=True), 1):
        name = file_name(sample, root)
        for box, score, label in zip(each.boxes.tolist(), each.scores.tolist(), each.labels.tolist(), strict=True):
            x1, y1, x2, y2 = box
            size = [x1, y1, x2 - x1, y2 - y1]
            row = {"image_id": number, "category_id": label + 1, "bbox": size, "score": score}
            rows.append({**row, "file_name": name, "category": labels[label]})
    write_atomic(path, msgspec.json.encode(rows))


def file_name(sample: Sample, root: Path) -> str:
    """Returns the path of a sample's image inside the data set's folder."""
    return sample.path.relative_to(root).as_posix() if sample.path.is_relative_to(root) else str(sample.path)
