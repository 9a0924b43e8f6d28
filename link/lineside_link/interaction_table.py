"""Interactions as rows of a table, for the hub's database and for exports of hub and device.

An export is training data: ``lineside train recommender --data`` reads its first five columns.
"""

from __future__ import annotations

import operator
from typing import Any, get_type_hints

from lineside_link.messages import InteractionRow
from lineside_link.table_export import ColumnTypes

INTERACTION_ROW_COLUMNS = InteractionRow.__struct_fields__
"""Columns that come from `InteractionRow`: a field that is added there is the last column."""

INTERACTION_TYPES: ColumnTypes = {
    name: float if name == "propensity" else kind if kind in (int, float) else int if name == "label" else str
    for name, kind in get_type_hints(InteractionRow).items()
}
"""``int``, ``float`` or ``str`` of each column; ``propensity`` may be missing."""

EXPORT_TYPES: ColumnTypes = {
    "user": str,
    "item": str,
    "time": float,
    "label": int,
    "attributes": str,
    "propensity": float,
    "bundle": str,
    "answer": int,
    "device": str,
}
"""Of an export; ``time`` in seconds of Unix time."""

_row_values = operator.attrgetter(*INTERACTION_ROW_COLUMNS)


def interaction_values(device: str, epoch: str, row: InteractionRow, received_at_ns: int) -> tuple[Any, ...]:
    """Returns the values of the hub's table ``interactions``: device, epoch, those of the row, and when it came."""
    return (device, epoch, *_row_values(row), received_at_ns)
