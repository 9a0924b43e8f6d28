"""Sessions of people whom an identity provider lets sign in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Adds the columns to ``hub.db``; PostgreSQL has no sessions."""
    if op.get_bind().dialect.name != "sqlite":
        return
    for name in ("issuer", "role", "id_token"):
        op.add_column("sessions", sa.Column(name, sa.Text(), nullable=False, server_default=""))
    op.execute("PRAGMA user_version = 15")
