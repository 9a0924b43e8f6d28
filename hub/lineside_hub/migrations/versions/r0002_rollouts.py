"""Rollouts, assignments to groups, whole desired states; indexes of results by part and time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds indexes, and to ``hub.db`` the tables of rollouts and assignments."""
    # The first release with PostgreSQL created these indexes and stored no revision.
    op.create_index("results_by_part", "results", ["part_id"], if_not_exists=True)
    op.create_index("results_by_time", "results", ["captured_at_ns"], if_not_exists=True)
    if op.get_bind().dialect.name != "sqlite":
        return
    op.add_column("desired", sa.Column("message", sa.Text()))
    op.add_column("devices", sa.Column("group_name", sa.Text(), nullable=False, server_default=""))
    op.execute("UPDATE devices SET group_name = coalesce(json_extract(birth, '$.group'), '') WHERE birth IS NOT NULL")
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at_ns", sa.Integer(), nullable=False),
        sa.Column("changed_at_ns", sa.Integer(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
    )
    op.create_table(
        "assignments",
        sa.Column("device", sa.Text(), primary_key=True),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("at_ns", sa.Integer(), nullable=False),
    )
    op.execute("PRAGMA user_version = 2")
