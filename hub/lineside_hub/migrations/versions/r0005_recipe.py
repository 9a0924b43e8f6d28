"""The active recipe of a result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds the column; older results have no recipe."""
    op.add_column("results", sa.Column("recipe", sa.Text(), nullable=False, server_default=""))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA user_version = 5")
