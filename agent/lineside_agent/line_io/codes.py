"""Result codes and defect summaries of records, for the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lineside_agent.line_io.events import NO_DEFECTS, Code, DefectSummary
from lineside_link.messages import MeasuredValue, ResultRow, View

OTHER_DEFECT = 255
"""Number of a defect type without a number of its own."""


def code_of(row: ResultRow, *, has_frame: bool) -> Code:
    """Returns the result code of a record; ``has_frame`` says whether there was an image."""
    if row.verdict == "fault":
        return Code.NOT_JUDGED if has_frame else Code.NO_FRAME
    if row.verdict == "pass":
        return Code.PASS
    return Code.UNSURE if row.unsure else Code.REJECT


def summarize_defects(row: ResultRow, labels: Sequence[str], numbers: Mapping[str, int]) -> DefectSummary:
    """Returns the defects of a rejected part, with values out of tolerance and marks that reject it; of an unsure one
    the doubtful findings.
    """
    found = _defects(row) if row.verdict == "reject" else []
    if not found:
        return NO_DEFECTS
    camera, index, kind, score = max(found, key=lambda one: one[3])
    return DefectSummary(kind, _number(kind, labels, numbers), len(found), score, camera, index)


def defect_types(row: ResultRow) -> set[str]:
    """Returns the defect types of a record, of all its cameras; without defects those of the doubtful findings.

    A measured value that is out of tolerance and a mark that rejects the part are defects of their rule's name.
    """
    return {kind for _, _, kind, _ in _defects(row)}


def _defects(row: ResultRow) -> list[tuple[str, int, str, float]]:
    """Camera, its index, type and score of each defect."""
    seen: Sequence[ResultRow | View] = row.views or (row,)
    numbered = list(enumerate(seen, 1))
    found = [(view.source, index, *one[:2]) for index, view in numbered for one in view.detections]
    found += [(view.source, index, one.name, 1.0) for index, view in numbered for one in view.measurements if _out(one)]
    found += [
        (view.source, index, one.name, 1.0)
        for index, view in numbered
        for one in view.readings
        if one.failure == "reject"
    ]
    return found or [(view.source, index, *one[:2]) for index, view in numbered for one in view.doubtful]


def _out(one: MeasuredValue) -> bool:
    return not one.in_tolerance and not one.error


def _number(kind: str, labels: Sequence[str], numbers: Mapping[str, int]) -> int:
    if numbers or kind not in labels:
        return numbers.get(kind, OTHER_DEFECT)
    return min(OTHER_DEFECT, labels.index(kind) + 1)


def code_of_record(row: ResultRow) -> str:
    """Returns the name of the code that the line was told; ``UNRECORDED`` where that is not known."""
    word = row.error.partition(":")[0]
    if word == "unrecorded":
        return word.upper()
    if row.verdict == "fault" and word in Code.__members__:
        return word
    return code_of(row, has_frame=row.width > 0).name
