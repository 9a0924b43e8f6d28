"""Views of a result: the verdict of each of several cameras, as JSON."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Adds the column; results of one camera have no views."""
    op.add_column("results", sa.Column("views", sa.Text(), nullable=False, server_default="[]"))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA user_version = 7")
