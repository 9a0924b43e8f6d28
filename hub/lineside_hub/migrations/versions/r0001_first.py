"""First release: results, devices, desired states and events."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_KEY = ("device", "epoch", "seq")


def upgrade() -> None:
    """Creates the tables of data from devices; in ``hub.db`` also those of the hub."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    integer = sa.Integer() if sqlite else sa.BigInteger()  # SQLite's INTEGER has 64 bits

    def column(name: str, kind: sa.types.TypeEngine[Any], *, required: bool = False) -> sa.Column[Any]:
        # The first release's SQLite tables allowed NULL in most columns.
        return sa.Column(name, kind, primary_key=name in _KEY, nullable=sqlite and not required and name not in _KEY)

    op.create_table(
        "results",
        column("device", sa.Text()),
        column("epoch", sa.Text()),
        column("seq", integer),
        column("part_id", sa.Text(), required=True),
        column("source", sa.Text()),
        column("sequence", integer),
        column("captured_at_ns", integer),
        column("verdict", sa.Text(), required=True),
        column("detections", sa.Text(), required=True),
        column("bundle", sa.Text()),
        column("bundle_sha256", sa.Text()),
        column("requested_device", sa.Text()),
        column("used_device", sa.Text()),
        column("latency_ms", sa.Double()),
        column("width", integer),
        column("height", integer),
        column("error", sa.Text()),
        column("received_at_ns", integer, required=True),
    )
    op.create_table(
        "quarantine",
        column("device", sa.Text()),
        column("epoch", sa.Text()),
        column("seq", integer),
        column("raw", sa.LargeBinary(), required=True),
        column("reason", sa.Text(), required=True),
        column("received_at_ns", integer),
    )
    op.create_table(
        "watermarks",
        sa.Column("device", sa.Text(), primary_key=True),
        sa.Column("epoch", sa.Text(), primary_key=True),
        sa.Column("seq", integer, nullable=False),
        sa.Column("at_ns", integer, nullable=sqlite),
    )
    if sqlite:
        _make_fleet()


def _make_fleet() -> None:
    op.create_table(
        "devices",
        sa.Column("device", sa.Text(), primary_key=True),
        sa.Column("up", sa.Integer()),
        sa.Column("up_at_ns", sa.Integer()),
        sa.Column("birth", sa.Text()),
        sa.Column("reported_at_ns", sa.Integer()),
        sa.Column("reported", sa.Text()),
    )
    op.create_table(
        "desired",
        sa.Column("scope", sa.Text(), primary_key=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("gen", sa.Integer(), nullable=False),
        sa.Column("bundle", sa.Text()),
        sa.Column("rollout", sa.Text()),
        sa.Column("at_ns", sa.Integer()),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("at_ns", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text()),
        sa.Column("code", sa.Integer()),
        sa.Column("detail", sa.Text()),
    )
    op.create_index("idx_events_device_at_ns", "events", ["device", "at_ns"])
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("value", sa.Integer(), nullable=False),
    )
    op.execute("PRAGMA user_version = 1")
