"""Bringing a database of an older release to this one's schema: SQLite's ``hub.db`` and PostgreSQL's results alike.

One line of revisions for both, run by Alembic: `versions/` holds a file each. PostgreSQL has the tables of what comes
from the devices; what the hub itself knows (devices, desired states, rollouts, events) is only in ``hub.db``.

Invariants:

- Which revision a database has stands in it (`VERSION_TABLE`) and changes in the same transaction as its tables, so
  a kill at any point leaves the old schema or the new one, whole.
- All that is missing is one transaction, under a lock: two processes that open an old database don't meet in it.
- A database whose revision this release doesn't know was written by a newer one and is refused, untouched.
- A database of this release's revision is opened without importing Alembic.
- ``hub.db`` also carries the number of its revision as ``user_version``, which is what the first releases look at: they
  refuse a newer file too.
"""

from __future__ import annotations

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
"""Named after us: a plant's PostgreSQL may hold somebody else's ``alembic_version``."""

READ_REVISION = f"SELECT version_num FROM {VERSION_TABLE}"

_one_at_a_time = threading.Lock()
"""Alembic's environment is a global of its module."""


def is_current(revision: str, where: str) -> bool:
    """Returns whether a database needs nothing done.

    Args:
        where: Which database, for the message.

    Raises:
        DatabaseError: A newer release wrote it.
    """
    if revision not in REVISIONS:
        action = "Use the release that wrote it, or a newer one."
        raise DatabaseError(f"{where} has another schema", expected=f"at most {HEAD}", actual=revision, action=action)
    return revision == HEAD


def upgrade(connection: Connection, *, unstamped: str | None = None) -> None:
    """Makes or changes tables until the database has this release's schema; inside the caller's transaction.

    Args:
        connection: Of SQLAlchemy, within a transaction that holds a lock.
        unstamped: The revision of a database that was made before revisions stood in it; ``None`` where it stands
            there, and for a new database.
    """
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
    # The option is a template, in which a percent sign begins a name.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
