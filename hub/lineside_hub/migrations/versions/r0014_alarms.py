"""Alarms of the fleet and their notices."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Adds the tables to ``hub.db``; PostgreSQL has none of them."""
    if op.get_bind().dialect.name != "sqlite":
        return

    def columns(kind: sa.types.TypeEngine[Any], *names: str) -> list[sa.Column[Any]]:
        return [sa.Column(name, kind, nullable=False) for name in names]

    op.create_table(
        "alarms",
        sa.Column("id", sa.Integer(), primary_key=True),
        *columns(sa.Text(), "rule", "device", "priority", "state", "detail", "acknowledged_by", "note"),
        *columns(sa.Float(), "value"),
        *columns(sa.Integer(), "raised_at_ns", "changed_at_ns", "cleared_at_ns", "acknowledged_at_ns", "count"),
        sqlite_autoincrement=True,  # numbers are never used again
    )
    is_open = sa.text("state <> 'closed'")
    op.create_index("alarms_open", "alarms", ["rule", "device"], unique=True, sqlite_where=is_open)
    op.create_table(
        "alarm_notices",
        sa.Column("id", sa.Integer(), primary_key=True),
        *columns(sa.Text(), "channel", "transition", "alarm", "error"),
        *columns(sa.Integer(), "at_ns", "sent_at_ns"),
        sqlite_autoincrement=True,
    )
    op.create_index("alarm_notices_waiting", "alarm_notices", ["channel", "id"], sqlite_where=sa.text("sent_at_ns = 0"))
    op.execute("PRAGMA user_version = 14")
