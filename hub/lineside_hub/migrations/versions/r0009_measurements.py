"""Measured values of a result, as JSON."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Adds the column; older results have no measured values."""
    op.add_column("results", sa.Column("measurements", sa.Text(), nullable=False, server_default="[]"))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA user_version = 9")
