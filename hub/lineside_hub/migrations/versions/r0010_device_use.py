"""Fallbacks and cache hits of a result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Adds the columns; of older results they are not known, and 0."""
    for name in ("fallbacks", "cache_hits"):
        op.add_column("results", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA user_version = 10")
