"""Interactions of devices that recommend, and their bytes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

_KEY = ("device", "epoch", "seq")


def upgrade() -> None:
    """Adds the tables, and in ``hub.db`` the count of bytes for the quota."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    integer = sa.Integer() if sqlite else sa.BigInteger()

    def key(names: tuple[str, ...] = _KEY) -> list[sa.Column[Any]]:
        return [
            sa.Column(name, integer if name == "seq" else sa.Text(), primary_key=True, autoincrement=False)
            for name in names
        ]

    def columns(kind: sa.types.TypeEngine[Any], *names: str) -> list[sa.Column[Any]]:
        return [sa.Column(name, kind, nullable=False) for name in names]

    op.create_table(
        "interactions",
        *key(),
        *columns(sa.Text(), "user_id", "item_id"),
        *columns(integer, "at_ns", "label", "answer"),
        sa.Column("propensity", sa.Double()),
        *columns(sa.Text(), "bundle"),
        *columns(integer, "received_at_ns"),
    )
    chosen = sa.text("label = 1")
    op.create_index(
        "interactions_chosen",
        "interactions",
        ["device", "epoch", "answer"],
        sqlite_where=chosen,
        postgresql_where=chosen,
    )
    op.create_index("interactions_by_time", "interactions", ["at_ns"])
    op.create_table(
        "interaction_quarantine",
        *key(),
        *columns(sa.LargeBinary(), "raw"),
        *columns(sa.Text(), "reason"),
        *columns(integer, "received_at_ns"),
    )
    op.create_table("interaction_watermarks", *key(_KEY[:2]), *columns(integer, "seq", "at_ns"))
    if sqlite:
        op.add_column(
            "usage", sa.Column("interactions_bytes", sa.Integer(), nullable=False, server_default=sa.text("0"))
        )
        op.execute("PRAGMA user_version = 16")
