"""Average precision as pycocotools computes it from the same boxes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def ap50(truths: Sequence[Any], found: Sequence[Any], types: int) -> dict[int, float]:
    """Returns AP at IoU 0.5 by label; labels without truth are left out.

    Args:
        truths: Each with ``boxes`` and ``labels``.
        found: Each with ``boxes``, ``scores`` and ``labels``.
        types: Number of labels.
    """

    def row(image: int, box: npt.NDArray[Any], label: int, **more: Any) -> dict[str, Any]:
        x1, y1, x2, y2 = box.astype(float).tolist()
        return {"image_id": image, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1], **more}

    annotations = [
        row(image, box, label, area=float(np.prod(box[2:] - box[:2])), iscrowd=0)
        for image, truth in enumerate(truths)
        for box, label in zip(truth.boxes, truth.labels, strict=True)
    ]
    results = [
        row(image, box, label, score=float(score))
        for image, each in enumerate(found)
        for box, score, label in zip(each.boxes, each.scores, each.labels, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truths))],
            "annotations": [{**one, "id": number} for number, one in enumerate(annotations, 1)],
            "categories": [{"id": label} for label in range(types)],
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.params.iouThrs = np.array([0.5])
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][0, :, :, 0, 2]
    return {label: float(precision[:, label].mean()) for label in range(types) if precision[0, label] >= 0}
