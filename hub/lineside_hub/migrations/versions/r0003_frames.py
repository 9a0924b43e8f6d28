"""Frames: the image of a result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds the table of frames; their content is stored in files."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    integer = sa.Integer() if sqlite else sa.BigInteger()
    op.create_table(
        "frames",
        sa.Column("device", sa.Text(), primary_key=True),
        sa.Column("epoch", sa.Text(), primary_key=True),
        sa.Column("seq", integer, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", integer, nullable=False),
        sa.Column("received_at_ns", integer, nullable=False),
    )
    op.create_index("frames_by_content", "frames", ["sha256"])
    op.create_index("frames_by_time", "frames", ["received_at_ns"])
    if sqlite:
        op.execute("PRAGMA user_version = 3")
