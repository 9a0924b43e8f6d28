"""Requested and used variant of a result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds the columns, empty for older results."""
    for name in ("requested_variant", "used_variant"):
        op.add_column("results", sa.Column(name, sa.Text(), nullable=False, server_default=""))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA user_version = 6")
