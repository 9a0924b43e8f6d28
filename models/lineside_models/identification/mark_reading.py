"""`MarkReading`: what a rule has read on a part."""

from __future__ import annotations

import msgspec

from lineside_models.identification.rules import Failure
from lineside_models.metrology.rules import Point


class MarkReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule has read.

    Attributes:
        type: Kind of the rule, ``code`` or ``text``.
        text: What was read; control characters stand as ``<GS>``. Empty if nothing was read.
        symbology: Such as ``data-matrix``; empty where there is none.
        agrees_with: As in the rule; empty if its text is not compared.
        expected: What the text had to be; empty if that is not known or any text is right.
        outline: Corners of the mark in pixels of the frame, or of the region where nothing was read.
        accepted: Whether it was read and is right.
        failure: What the part is by this rule: ``fault``, ``reject``, or empty for an accepted mark.
        error: Why it is not accepted.
        is_part_id: Whether its text is the part's id, where it is accepted.
    """

    name: str
    type: str
    text: str = ""
    symbology: str = ""
    agrees_with: str = ""
    expected: str = ""
    outline: tuple[Point, ...] = ()
    accepted: bool = False
    failure: Failure | None = None
    error: str = ""
    is_part_id: bool = False

    @property
    def label(self) -> str:
        """Name and text, such as ``label C123456``."""
        return f"{self.name} {self.text}" if self.text else f"{self.name} not read"

    @property
    def summary(self) -> str:
        """Name, text and why it is not accepted."""
        return self.label if self.accepted else f"{self.label}: {self.error}"
