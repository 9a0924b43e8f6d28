"""Alembic's environment: runs the revisions on the connection that `lineside_hub.migrations` hands over."""

from __future__ import annotations

from alembic import context

from lineside_hub.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
