"""Migrations of the hub's databases: SQLite's ``hub.db`` and the results in PostgreSQL.

Both have the same revisions, run by Alembic: a file each in `versions/`. PostgreSQL has the tables of data from
devices; devices, desired states, rollouts and events are only in ``hub.db``.

Invariants:

- The revision is stored in the database (`VERSION_TABLE`) and changes in the same transaction as its tables: a kill at
  any point leaves the old or the new schema, complete.
- All missing revisions are one transaction under a lock, for processes that open an old database at the same time.
- A database of an unknown revision was written by a newer release and is refused unchanged.
- A database of this release's revision is opened without importing Alembic.
- ``hub.db`` also has its revision as ``user_version``, because the first releases check that to refuse a newer file.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lineside_runtime.errors import DatabaseError, MissingExtraError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

REVISIONS = tuple(sorted(path.name[1:5] for path in (Path(__file__).parent / "versions").glob("r[0-9]*.py")))
"""All that this release knows, in order: a file each in `versions`."""

HEAD = REVISIONS[-1]

VERSION_TABLE = "lineside_schema"
"""Not ``alembic_version``, which another program in the same PostgreSQL database may use."""

READ_REVISION = f"SELECT version_num FROM {VERSION_TABLE}"

_one_at_a_time = threading.Lock()
"""Alembic's environment is a global of its module."""


def is_current(revision: str, where: str) -> bool:
    """Returns whether a database has the schema of this release.

    Args:
        where: Which database, for the message.
    """
    if revision not in REVISIONS:
        action = "Use the release that wrote it, or a newer one."
        raise DatabaseError(f"{where} has another schema", expected=f"at most {HEAD}", actual=revision, action=action)
    return revision == HEAD


def upgrade(connection: Connection, *, unstamped: str | None = None) -> None:
    """Migrates a database to this release's schema, inside the caller's transaction.

    Args:
        connection: Of SQLAlchemy, within a transaction that holds a lock.
        unstamped: The revision of a database without a stored one; ``None`` for others and for a new database.
    """
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # names each plugin of Alembic itself
    try:
        from alembic import command
    except ImportError as error:
        action = "Install the extra: pip install 'lineside[convert]'."
        raise MissingExtraError("an older or new database of a hub needs Alembic", action=action) from error
    with _one_at_a_time:
        config = _config(connection)
        if unstamped is not None:
            command.stamp(config, unstamped)
        command.upgrade(config, "head")


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    # In this option a percent sign is special.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
