"""Bytes of results of each device, for its quota."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_ESTIMATE = (
    "INSERT INTO usage SELECT device, sum(300 + length(part_id) + length(detections) + length(views) + length(error)) "
    "FROM results GROUP BY device"
)
"""Estimate for existing results; 300 bytes are the other fields of a record as JSON."""


def upgrade() -> None:
    """Adds the table to ``hub.db``; results in PostgreSQL are only counted from now on."""
    if op.get_bind().dialect.name != "sqlite":
        return
    op.create_table(
        "usage",
        sa.Column("device", sa.Text(), primary_key=True),
        sa.Column("results_bytes", sa.Integer(), nullable=False),
    )
    op.execute(_ESTIMATE)
    op.execute("PRAGMA user_version = 8")
