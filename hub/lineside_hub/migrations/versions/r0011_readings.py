"""Marks that were read from the part of a result, as JSON."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Adds the column; of older results no mark was read."""
    op.add_column("results", sa.Column("readings", sa.Text(), nullable=False, server_default="[]"))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA user_version = 11")
