"""Accounts and sessions of the fleet dashboard, and its audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Adds the tables to ``hub.db``; PostgreSQL has none of them."""
    if op.get_bind().dialect.name != "sqlite":
        return
    op.create_table(
        "accounts",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("created_at_ns", sa.Integer(), nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("digest", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("begun_at_s", sa.Float(), nullable=False),
        sa.Column("used_at_s", sa.Float(), nullable=False),
        sa.Column("ends_at_s", sa.Float(), nullable=False),
    )
    texts = ("who", "address", "action", "subject", "before", "after", "error", "digest")
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("at_ns", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in texts),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "audit_pending",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("at_ns", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("who", "address", "action", "subject")),
    )
    op.execute("PRAGMA user_version = 12")
