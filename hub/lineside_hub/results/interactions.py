"""Query interactions by device, user, item, bundle and time; export as training data.

The same statement serves SQLite and PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from lineside_hub.config import HubConfig
from lineside_hub.results.sql import stream
from lineside_link.interaction_table import EXPORT_TYPES
from lineside_link.table_export import TableRow, export_table

_ORDER = ("at_ns", "device", "epoch", "seq")
_CHOSEN = (
    "SELECT 1 FROM interactions c WHERE c.label = 1 AND c.device = i.device AND c.epoch = i.epoch "
    "AND c.answer = i.answer AND c.item_id = i.item_id"
)
_COLUMNS = "i.user_id, i.item_id, i.at_ns, i.label, i.propensity, i.bundle, i.answer, i.device"


class InteractionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Selects interactions; empty and ``None`` fields do not restrict.

    Attributes:
        bundle: ``name@version``, or a name for all of its versions.
        chosen: Only what was chosen, or only what was shown and not chosen.
        since_ns: Then or later, Unix time in ns.
        limit: Only the newest so many.
    """

    device: str = ""
    user_id: str = ""
    item_id: str = ""
    bundle: str = ""
    chosen: bool | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    limit: int | None = None

    def sql(self) -> tuple[str, dict[str, object]]:
        """Returns the statement and its named parameters; oldest first."""
        conditions: dict[str, tuple[str, object]] = {
            "device": ("i.device = :device", self.device),
            "user_id": ("i.user_id = :user_id", self.user_id),
            "item_id": ("i.item_id = :item_id", self.item_id),
            "bundle": ("i.bundle = :bundle", self.bundle),
            "label": ("i.label = :label", None if self.chosen is None else int(self.chosen)),
            "since_ns": ("i.at_ns >= :since_ns", self.since_ns),
            "until_ns": ("i.at_ns < :until_ns", self.until_ns),
        }
        if self.bundle and "@" not in self.bundle:
            conditions["bundle"] = ("substr(i.bundle, 1, length(:bundle)) = :bundle", f"{self.bundle}@")
        used = {name: value for name, (_, value) in conditions.items() if value not in ("", None)}
        where = " AND ".join([f"(i.label = 1 OR NOT EXISTS ({_CHOSEN}))", *(conditions[name][0] for name in used)])
        text = f"SELECT {_COLUMNS}, i.epoch, i.seq FROM interactions i WHERE {where}"
        if self.limit is not None:
            newest = ", ".join(f"i.{name} DESC" for name in _ORDER)
            text = f"SELECT * FROM ({text} ORDER BY {newest} LIMIT :limit) AS i"
            used["limit"] = self.limit
        return f"{text} ORDER BY {', '.join(f'i.{name}' for name in _ORDER)}", used


def interactions(config: HubConfig, query: InteractionQuery) -> Iterator[TableRow]:
    """Yields interactions in the columns of `EXPORT_TYPES`, oldest first.

    An item that was shown and then chosen is one row, with label 1.
    """
    for user, item, at_ns, label, propensity, bundle, answer, device, *_ in stream(config, *query.sql()):
        yield user, item, at_ns / 1e9, label, "", propensity, bundle, answer, device


def export_interactions(config: HubConfig, query: InteractionQuery, path: Path) -> int:
    """Writes interactions into a file; returns how many.

    Args:
        path: As in `lineside_link.table_export.export_table`, whose errors are raised too.
    """
    return export_table(interactions(config, query), path, EXPORT_TYPES, escape_formulas=False)
