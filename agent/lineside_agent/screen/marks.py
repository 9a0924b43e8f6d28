"""What a person says of a verdict, as the note of an operator's mark (`lineside_agent.storage.verdict_marks`)."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from lineside_link.messages import NOTE_MAX

MarkKind = Literal["false_reject", "missed_defect", "not_sure"]

KINDS: tuple[MarkKind, ...] = get_args(MarkKind)

_TEXTS: dict[MarkKind, str] = {
    "false_reject": "false reject",
    "missed_defect": "missed defect",
    "not_sure": "not sure",
}


class MarkedBox(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a person sees a defect.

    Attributes:
        box: ``(x1, y1, x2, y2)`` in pixels of the frame.
        type: Defect type; empty where the person does not know it.
        view: Index of the camera that shows it.
    """

    box: tuple[float, float, float, float]
    type: str = ""
    view: int = 0


def note_of(kind: MarkKind, box: MarkedBox | None, *, camera: str = "", by: str = "") -> str:
    """Returns the note for the person who corrects, such as ``missed defect: scratch at 10 20 42 50 (Ann)``.

    Args:
        camera: Name of the camera that shows the box, where there are several.
        by: Name of the person who marks.
    """
    text = _TEXTS[kind]
    if box is not None:
        place = " ".join(f"{side:.0f}" for side in box.box)
        text = f"{text}: {box.type[:60] or 'defect'} at {place}{f' of {camera[:40]}' if camera else ''}"
    return f"{text} ({by})"[:NOTE_MAX] if by else text[:NOTE_MAX]


def kind_of(note: str) -> str:
    """Returns the kind of mark that a note begins with; empty for another note."""
    return next((kind for kind, text in _TEXTS.items() if note.startswith(text)), "")
