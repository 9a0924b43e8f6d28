"""Reviews: marks and corrections of results by people."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds the table of reviews, in the database of the results."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    integer = sa.Integer() if sqlite else sa.BigInteger()
    op.create_table(
        "reviews",
        sa.Column("device", sa.Text(), primary_key=True),
        sa.Column("epoch", sa.Text(), primary_key=True),
        sa.Column("seq", integer, primary_key=True, autoincrement=False),
        sa.Column("wrong", integer, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("marked_by", sa.Text(), nullable=False),
        sa.Column("marked_at_ns", integer, nullable=False),
        sa.Column("boxes", sa.Text(), nullable=False),
        sa.Column("corrected_by", sa.Text(), nullable=False),
        sa.Column("corrected_at_ns", integer, nullable=False),
    )
    if sqlite:
        op.execute("PRAGMA user_version = 4")
