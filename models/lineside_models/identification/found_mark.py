"""`FoundMark`: what a reader of any kind finds in a region of the frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from lineside_models.frame import UInt8Array
from lineside_models.metrology.rules import Point


class FoundMark(msgspec.Struct, frozen=True, kw_only=True):
    """A mark that a reader has found.

    Attributes:
        content: As it was read, control characters included.
        symbology: Kind of code; empty for a text without one.
        outline: Corners ``(x, y)`` in pixels of the image, clockwise from the mark's own top left.
    """

    content: str
    symbology: str = ""
    outline: tuple[Point, ...]


FindMarks = Callable[[UInt8Array], Iterable[Sequence[FoundMark]]]
"""Finds all marks of a rule's kind in a region, ``(H, W) uint8`` grey or ``(H, W, 3) uint8`` BGR; thread-safe.

Gives the marks of one attempt after the other, each harder than the one before; the reader of marks ends it as soon as
an attempt gives a mark that fits the rule.
"""
