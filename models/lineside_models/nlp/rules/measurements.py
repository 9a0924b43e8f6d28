"""Numbers of tables and lines, and cells from which none could be taken."""

from __future__ import annotations

import msgspec

from lineside_models.nlp.rules.cells import Cell
from lineside_models.nlp.rules.fields import number_doubt, unit_doubt
from lineside_models.nlp.rules.roles import Role
from lineside_models.nlp.rules.values import Quantity
from lineside_models.nlp.schemas import QuantitySchema

_SCORE = 0.97


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A number of a table.

    Attributes:
        role: ``value``, ``min`` or ``max``.
        text: With a decimal point.
        unit: Stated, or the quantity's first one.
        score: Probability that all of this is right.
        doubt: Why a person should look at it.
        group: Numbers of one group belong to each other: a limit to the values of its group.
        row: What stands before the values of its row, if that does not tell their role: the heat, or anything else.
    """

    table: str
    quantity: str
    role: Role
    cell: Cell
    number: float
    text: str
    unit: str
    score: float
    doubt: str
    group: int
    row: str = ""


class Unread(msgspec.Struct, frozen=True):
    """A cell of a table from which no number could be taken.

    Attributes:
        field: The quantity as in `Entity.type`; the table where that is not known.
        cell: The cell, or the head of its column or row.
        text: What is wrong.
    """

    field: str
    cell: Cell
    text: str


def measure(
    table: str, quantity: QuantitySchema, role: Role, cell: Cell, one: Quantity, *, unit: str, doubt: str, group: int
) -> Measured:
    """Returns a number of a quantity; in doubt if its unit is not known, it is not plausible, or for ``doubt``.

    Args:
        unit: Stated with the number or for its row or column; empty for the quantity's first one.
    """
    doubts = (
        unit_doubt(unit, quantity.units) if unit else "",
        number_doubt(cell.text, one.number, quantity.min, quantity.max),
        doubt,
    )
    return Measured(
        table=table,
        quantity=quantity.name,
        role=role,
        cell=cell,
        number=one.number,
        text=one.text,
        unit=unit or (quantity.units[0] if quantity.units else ""),
        score=_SCORE * cell.score,
        doubt=next(filter(None, doubts), ""),
        group=group,
    )
