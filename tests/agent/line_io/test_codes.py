"""Result codes and defect summaries of records."""

from __future__ import annotations

from typing import Any

from lineside_agent.line_io.codes import OTHER_DEFECT, summarize_defects
from lineside_agent.line_io.events import NO_DEFECTS, DefectSummary
from lineside_link.messages import ResultRow, View

LABELS = ("crazing", "pits", "scratches")
BOX = (0.0, 0.0, 8.0, 8.0)


def row(**fields: Any) -> ResultRow:
    return ResultRow(**{"seq": 1, "part_id": "A-1", "source": "top", "verdict": "reject", **fields})


def test_highest_score_names_the_defect_and_all_are_counted() -> None:
    seen = row(detections=(("pits", 0.6, *BOX), ("scratches", 0.9, *BOX), ("pits", 0.7, *BOX)))
    assert summarize_defects(seen, LABELS, {}) == DefectSummary("scratches", 3, 3, 0.9, "top", 1)


def test_defects_of_several_cameras_are_counted_together_and_the_camera_is_named() -> None:
    views = (
        View(source="top", verdict="reject", detections=(("pits", 0.6, *BOX),)),
        View(source="left", verdict="pass"),
        View(source="right", verdict="reject", detections=(("crazing", 0.8, *BOX),)),
    )
    seen = row(source="top+left+right", detections=views[0].detections, views=views)
    assert summarize_defects(seen, LABELS, {}) == DefectSummary("crazing", 1, 2, 0.8, "right", 3)


def test_unsure_part_tells_what_it_was_unsure_of() -> None:
    seen = row(unsure=True, doubtful=(("pits", 0.4, *BOX),))
    assert summarize_defects(seen, LABELS, {}) == DefectSummary("pits", 2, 1, 0.4, "top", 1)


def test_part_that_is_not_rejected_has_no_defects() -> None:
    found = (("pits", 0.4, *BOX),)
    assert summarize_defects(row(verdict="pass", detections=found), LABELS, {}) is NO_DEFECTS
    assert summarize_defects(row(verdict="fault", error="x"), LABELS, {}) is NO_DEFECTS
    assert summarize_defects(row(), LABELS, {}) is NO_DEFECTS


def test_configured_numbers_hold_alone_and_the_rest_has_one_of_its_own() -> None:
    numbers = {"pits": 2, "scratches": 2}
    told = [summarize_defects(row(detections=((kind, 0.9, *BOX),)), LABELS, numbers).number for kind in LABELS]
    assert told == [OTHER_DEFECT, 2, 2]
    assert summarize_defects(row(detections=(("pits", 0.9, *BOX),)), (), {}).number == OTHER_DEFECT
