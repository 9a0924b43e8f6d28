"""Rules that read marks on a part: where, what kind of mark, what its text means and what it must agree with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Literal, get_args

import msgspec

from lineside_models.metrology.rules import RuleName
from lineside_runtime.errors import ConfigError

RULES_MAX = 64
"""Rules of one frame."""

GIVEN_ID = "part_id"
"""In ``agrees_with``: the part id that line or camera gave."""

Symbology = Literal[
    "data-matrix", "qr", "micro-qr", "rmqr", "aztec", "pdf417", "code-128", "code-39", "code-93", "codabar", "itf",
    "ean-13", "ean-8", "upc-a", "upc-e", "databar", "databar-expanded",
]  # fmt: skip
SYMBOLOGIES: tuple[str, ...] = get_args(Symbology)

Failure = Literal["fault", "reject"]


class _MarkRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """What all rules have.

    Attributes:
        name: Name of the mark in records, 1 to 64 printable ASCII characters.
        region: Where the mark is, ``[x1, y1, x2, y2]`` in pixels of the frame; the whole mark must lie in it. Unset:
            the whole frame.
        part_id: Whether the text is the part's id, in place of the one that line or camera gave.
        pattern: Regular expression that the whole text must fit; marks in the region that do not fit it are passed over
            if another one fits. With a group, the text of the first group counts. Unset: any text.
        equals: Text that the mark must have; unset: any.
        agrees_with: What the text must be equal to: the name of another rule, ``part_id`` for the part id that line or
            camera gave, or a field of the part in ``expected_values``; unset: nothing.
        unread: What a part is whose mark is not read, or cannot be checked: ``fault`` or ``reject``.
        mismatch: What a part is whose mark is read and does not agree: ``reject`` or ``fault``.
    """

    name: RuleName
    region: tuple[float, float, float, float] | None = None
    part_id: bool = False
    pattern: str = ""
    equals: str = ""
    agrees_with: str = ""
    unread: Failure = "fault"
    mismatch: Failure = "reject"

    def __post_init__(self) -> None:
        if self.region is not None:
            x1, y1, x2, y2 = self.region
            if not all(math.isfinite(side) and abs(side) < 1e5 for side in self.region) or x2 - x1 < 8 or y2 - y1 < 8:
                raise ValueError(f"the region of the rule {self.name} needs [x1, y1, x2, y2], at least 8 pixels wide")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"the pattern of the rule {self.name} is no regular expression: {error}") from error
        if self.agrees_with == self.name:
            raise ValueError(f"the rule {self.name} agrees with itself: name another one, or a field")


class CodeRule(_MarkRule, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="code"):
    """A Data Matrix, QR or linear code; needs ``pip install 'lineside[codes]'``.

    Attributes:
        symbologies: Kinds of code that are looked for; each costs time where no code is found. ``itf`` reads a part of
            a code as a shorter one: give it a ``pattern`` with the length.
        gs1: Application identifier of the GS1 element whose value is the text, such as ``21`` for the serial number;
            unset: the whole content.
    """

    symbologies: Annotated[tuple[Symbology, ...], msgspec.Meta(min_length=1)] = ("data-matrix", "qr", "code-128")
    gs1: Annotated[str, msgspec.Meta(pattern="^([0-9]{2,4})?$")] = ""


class TextRule(_MarkRule, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="text"):
    """A line of printed or stamped text in Latin letters.

    Each line of text in the region is a mark: give a ``pattern`` where there are several.

    Attributes:
        min_score: Least probability, 0 to 1, of the line's least sure character; a line below it counts as not read.
    """

    min_score: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.8


MarkRule = CodeRule | TextRule
"""All kinds of rules; a further kind is a struct with a tag of its own, and an entry of `mark_reader.READERS`."""


def check_rules(rules: tuple[MarkRule, ...]) -> None:
    """Checks rules against each other.

    Raises:
        ValueError: Two have one name or give the part's id, one is called ``part_id``, or there are too many.
    """
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two rules in read have the name {twice[0]}")
    if GIVEN_ID in names:
        raise ValueError(f"a rule in read can't have the name {GIVEN_ID}: set part_id = true in a rule of another name")
    if len(rules) > RULES_MAX:
        raise ValueError(f"read has {len(rules)} rules, at most {RULES_MAX} are allowed")
    if len(ids := [rule.name for rule in rules if rule.part_id]) > 1:
        raise ValueError(f"two rules in read give the part's id: {', '.join(ids)}")


def lookup_fields(rules: tuple[MarkRule, ...]) -> list[str]:
    """Returns the fields of the expected values that rules must agree with."""
    own = {GIVEN_ID, *(rule.name for rule in rules)}
    return sorted({rule.agrees_with for rule in rules if rule.agrees_with} - own)


def check_lookup(
    rules: tuple[MarkRule, ...], *, has_values: bool, where: Callable[[str], str] = "$.inspect.{}".format
) -> None:
    """Checks that expected values are given where rules need them.

    Args:
        where: Returns the path of a rule by its key, for the message.

    Raises:
        ConfigError: A rule agrees with a field, and there are none.
    """
    if (fields := lookup_fields(rules)) and not has_values:
        name = next(rule.name for rule in rules if rule.agrees_with == fields[0])
        raise ConfigError(
            f"{where('read')}: the rule {name} agrees with {fields[0]}, and there are no expected values",
            expected=f"{where('expected_values')}, the name of another rule, or part_id",
            action="Name a file or folder in agent.toml on the device; `lineside inspect` takes it by --expected.",
        )
