"""Marked defects on further good frames."""

from __future__ import annotations

import numpy as np

from lineside_models.anomaly.copy_paste import COPIES, paste_defects
from lineside_models.anomaly.defect_head import MarkedFrame, collect_marked
from lineside_models.frame import Frame


def _marked() -> np.ndarray:
    image = np.full((320, 320), 60, np.uint8)
    image[100:140, 200:260] = 120
    return image


def test_a_defect_is_pasted_at_other_places_in_the_light_of_the_place() -> None:
    """The defect is twice as bright as its ground, wherever it lies."""
    good = [np.full((320, 320), grey, np.uint8) for grey in (40, 80)]
    frames = paste_defects([(_marked(), np.array([[200, 100, 260, 140]], np.float32))], good, seed=3)
    assert len({tuple(box.tolist()) for _, box in frames}) == COPIES
    for image, box in frames:
        left, top, right, bottom = (int(each) for each in box)
        ground = int(image[0, 0])
        assert ground in (40, 80)
        assert abs(image[top + 3 : bottom - 3, left + 3 : right - 3].mean() / ground - 2) < 0.2
        outside = image.copy()
        outside[max(0, top - 6) : bottom + 6, max(0, left - 6) : right + 6] = ground
        assert (outside == ground).all()


def test_boxes_in_pixels_of_the_frame_mark_the_cells_where_the_defect_was_pasted() -> None:
    wide = np.repeat(_marked()[::2], 2, axis=1)  # 160 high, 640 wide
    marked = MarkedFrame(Frame(image=wide), np.array([[400, 50, 520, 70]]))
    unboxed = MarkedFrame(Frame(image=wide), np.zeros((0, 4)))
    features = collect_marked([marked, unboxed], [np.full((320, 320), 60, np.uint8)])
    assert features is not None and features.pasted is not None
    assert len(features.features.parts) == 2  # those of the customer
    assert len(features.pasted.defects) == COPIES
    cells = features.pasted.defects.sum(axis=1)  # of 16 x 16 pixels; the box has 60 x 40
    assert (cells >= 2).all() and (cells <= 30).all()
    assert collect_marked([unboxed], [wide]).pasted is None  # type: ignore[union-attr]
    assert collect_marked([]) is None
