"""`MarkReader`: reads the marks of a part by rules, and checks each against what it must agree with.

A rule whose mark is not read gives a reading without a text and with the error, so that the part can never pass by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from lineside_models.frame import UInt8Array
from lineside_models.identification.codes import open_code_reader
from lineside_models.identification.found_mark import FindMarks, FoundMark
from lineside_models.identification.gs1 import parse_elements
from lineside_models.identification.mark_reading import MarkReading
from lineside_models.identification.rules import (
    GIVEN_ID,
    CodeRule,
    Failure,
    MarkRule,
    TextRule,
    check_lookup,
)
from lineside_models.identification.text import open_text_reader
from lineside_models.metrology.locator import Locator, placed
from lineside_models.metrology.rules import Point
from lineside_models.preprocess import to_grey
from lineside_runtime.errors import MarkError, MeasurementError

if TYPE_CHECKING:
    from lineside_models.identification.expected_values import ExpectedValues

TEXT_MAX = 1024
"""Characters of a text; a longer one is an error."""

PART_ID_MAX = 128
"""Characters of a part id."""

_CONTROLS = (
    *("NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR", "SO", "SI", "DLE"),
    *("DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US"),
)
"""Names of the ASCII control characters, by their code."""


READERS: dict[type, Callable[[Any], FindMarks]] = {CodeRule: open_code_reader, TextRule: open_text_reader}
"""By kind of rule: opens what finds its marks; called once a rule, raises a `LinesideError` where it can't work."""


class MarkReader:
    """Reads the marks of parts; thread-safe.

    Args:
        rules: In pixels of the frame, or with a locator of the frame for which they were drawn.
        expected: Expected values by part; ``None`` for none.
        locator: Finds the part, which the regions then follow.

    Raises:
        ConfigError: A rule agrees with a field, and there are no expected values.
        MissingExtraError: The library of a rule's kind is not installed.
    """

    def __init__(
        self, rules: tuple[MarkRule, ...], expected: ExpectedValues | None = None, locator: Locator | None = None
    ) -> None:
        check_lookup(rules, has_values=expected is not None)
        self._find = [(rule, READERS[type(rule)](rule)) for rule in rules]
        self._expected = expected
        self._locator = locator

    def read(self, image: UInt8Array, part_id: str = "", read_id: str = "") -> tuple[MarkReading, ...]:
        """Reads a frame.

        Args:
            image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8``.
            part_id: As line or camera gave it.
            read_id: As another camera or model has read it from the part; empty if none has.

        Returns:
            One a rule, in their order.

        Raises:
            MarkError: A region lies outside the frame.
        """
        if not self._find:
            return ()
        size = (image.shape[1], image.shape[0])
        for rule, _ in self._find:
            _check_inside(rule, size)
        try:
            moved = None if self._locator is None else placed(self._locator, to_grey(image))
        except MeasurementError as lost:
            read = [_unread(rule, _box(rule, size), str(lost)) for rule, _ in self._find]
        else:
            read = [_read(image, rule, find, moved) for rule, find in self._find]
        return self._checked(read, part_id, read_id)

    def _checked(self, read: list[MarkReading], given_id: str, read_id: str) -> tuple[MarkReading, ...]:
        """Compares a reading with the values that it must agree with."""
        rules = [rule for rule, _ in self._find]
        texts = {one.name: one.text for one in read if not one.error}
        named = next((rule.name for rule in rules if rule.part_id), None)
        part_id = read_id or given_id if named is None else texts.get(named, "")
        return tuple(
            self._compared(one, rule, texts, given_id, part_id) if rule.agrees_with and not one.error else one
            for one, rule in zip(read, rules, strict=True)
        )

    def _compared(
        self, one: MarkReading, rule: MarkRule, texts: Mapping[str, str], given_id: str, part_id: str
    ) -> MarkReading:
        name = rule.agrees_with
        try:
            if name == GIVEN_ID:
                expected, missing = given_id, "no part id was given"
            elif any(name == other.name for other, _ in self._find):
                expected, missing = texts.get(name, ""), f"{name} was not read"
            else:
                expected, missing = self._look_up(part_id, name)
        except MarkError as error:
            return _failed(one, rule.unread, str(error))
        if not expected:
            return _failed(one, rule.unread, f"can't be checked: {missing}")
        one = msgspec.structs.replace(one, expected=_shown(expected))
        return one if one.text == one.expected else _failed(one, rule.mismatch, f"{name} is {one.expected}")

    def _look_up(self, part_id: str, field: str) -> tuple[str, str]:
        """Returns the expected value, empty if it is not known, and why then."""
        if not part_id:
            return "", "the part's id was not read"
        found = None if self._expected is None else self._expected.find(part_id, field)
        return found or "", f"part {part_id} has no {field} in the expected values"


def _read(image: UInt8Array, rule: MarkRule, find: FindMarks, moved: Callable[[Point], Point] | None) -> MarkReading:
    """Reads one mark, without comparing it."""
    size = (image.shape[1], image.shape[0])
    x1, y1, x2, y2 = _box(rule, size) if moved is None else _moved_box(_box(rule, size), moved, size)
    region = (x1, y1, x2, y2)
    if x2 - x1 < 1 or y2 - y1 < 1:
        return _unread(rule, region, "the part lies so that the frame cuts the region off")
    found: list[FoundMark] = []
    fitting: dict[str, FoundMark] = {}
    for attempt in find(np.ascontiguousarray(image[y1:y2, x1:x2])):
        marks = [_shifted(mark, x1, y1) for mark in attempt]
        fitting = {text: mark for mark in marks if (text := _text_of(rule, mark)) is not None}
        found += marks
        if fitting:
            break
    if not found:
        return _unread(rule, region, "nothing was read")
    if len(fitting) > 1:
        names = ", ".join(sorted(map(_shown, fitting)))
        return _unread(rule, region, f"{len(fitting)} marks are in the region: {names}")
    if not fitting:
        seen = found[0]
        what = (
            f"it has no GS1 element ({rule.gs1})"
            if isinstance(rule, CodeRule) and rule.gs1
            else f"it does not fit {rule.pattern}"
        )
        return _failed(_reading(rule, seen, _shown(seen.content)), rule.mismatch, what)
    ((text, mark),) = fitting.items()
    return _valid(rule, _reading(rule, mark, _shown(text)))


def _reading(rule: MarkRule, mark: FoundMark, text: str) -> MarkReading:
    """Returns the unchecked reading."""
    return MarkReading(
        name=rule.name,
        type=str(rule.__struct_config__.tag),
        text=text,
        symbology=mark.symbology,
        agrees_with=rule.agrees_with,
        expected=rule.equals,
        outline=mark.outline,
        accepted=True,
        is_part_id=rule.part_id,
    )


def _valid(rule: MarkRule, one: MarkReading) -> MarkReading:
    """Refuses a text that is too long, or is not what the rule says."""
    longest = PART_ID_MAX if rule.part_id else TEXT_MAX
    if len(one.text) > longest:
        short = msgspec.structs.replace(one, text=one.text[:longest])
        return _failed(short, rule.mismatch, f"it has {len(one.text)} characters, at most {longest} are allowed")
    if rule.equals and one.text != rule.equals:
        return _failed(one, rule.mismatch, f"{rule.equals} is expected")
    return one


def _failed(one: MarkReading, failure: Failure, why: str) -> MarkReading:
    return msgspec.structs.replace(one, accepted=False, failure=failure, error=why)


def _unread(rule: MarkRule, box: tuple[int, int, int, int], why: str) -> MarkReading:
    x1, y1, x2, y2 = box
    place = FoundMark(content="", outline=((x1, y1), (x2, y1), (x2, y2), (x1, y2)))
    return _failed(_reading(rule, place, ""), rule.unread, why)


def _text_of(rule: MarkRule, mark: FoundMark) -> str | None:
    """Returns the text of a mark by its rule; ``None`` if the mark does not fit the rule."""
    text = mark.content
    if isinstance(rule, CodeRule) and rule.gs1:
        try:
            text = parse_elements(text).get(rule.gs1, "")
        except ValueError:
            return None
    if not text:
        return None
    if not rule.pattern or len(text) > TEXT_MAX:  # one that is too long is refused, whatever its pattern
        return text
    match = re.fullmatch(rule.pattern, text)
    if match is None:
        return None
    return match[1] or None if match.re.groups else text


def _shown(text: str) -> str:
    """Returns a text with its control characters by their names, such as ``<GS>``."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _name(ord(one)) for one in text)


def _name(code: int) -> str:
    return f"<{_CONTROLS[code]}>" if code < len(_CONTROLS) else f"<U+{code:04X}>"


def _box(rule: MarkRule, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns the region in whole pixels, x2 and y2 exclusive."""
    if rule.region is None:
        return (0, 0, *size)
    x1, y1, x2, y2 = (round(side) for side in rule.region)
    return x1, y1, x2, y2


def _moved_box(
    box: tuple[int, int, int, int], moved: Callable[[Point], Point], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Returns the upright box around a region where the part lies, within the frame."""
    x1, y1, x2, y2 = box
    xs, ys = zip(*map(moved, ((x1, y1), (x2, y1), (x2, y2), (x1, y2))), strict=True)
    left, top = max(0, round(min(xs))), max(0, round(min(ys)))
    return left, top, min(size[0], round(max(xs))), min(size[1], round(max(ys)))


def _shifted(mark: FoundMark, x: int, y: int) -> FoundMark:
    return msgspec.structs.replace(mark, outline=tuple((at_x + x, at_y + y) for at_x, at_y in mark.outline))


def _check_inside(rule: MarkRule, size: tuple[int, int]) -> None:
    x1, y1, x2, y2 = _box(rule, size)
    if min(x1, y1) < 0 or x2 > size[0] or y2 > size[1]:
        raise MarkError(
            f"the region of the rule {rule.name} lies outside the frame",
            expected=f"x from 0 to {size[0]}, y from 0 to {size[1]}",
            actual=f"x from {x1} to {x2}, y from {y1} to {y2}",
            action="Draw the region for this camera's frames.",
        )
