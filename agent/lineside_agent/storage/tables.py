"""Tables of a SQLite file, made and extended with sqlite-utils.

sqlite-utils imports pandas wherever that is installed, only to know its number types. No agent has one to store, and
pandas with pyarrow behind it kept 65 MB of this process resident.
"""

from __future__ import annotations

import importlib
import sqlite3
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

_importing = threading.Lock()


def tables_of(connection: sqlite3.Connection) -> Database:
    """Returns the tables behind a connection.

    Args:
        connection: Stays the caller's to close.
    """
    with _importing:
        if "sqlite_utils" not in sys.modules:
            _import_alone()
    from sqlite_utils import Database

    return Database(connection)


def _import_alone() -> None:
    """Imports sqlite-utils as where there is no pandas; who has imported pandas keeps it."""
    hide = "pandas" not in sys.modules
    if hide:
        sys.modules["pandas"] = None  # type: ignore[assignment]  # Python's own mark: to import it is an ImportError
    try:
        importlib.import_module("sqlite_utils")
    finally:
        if hide:
            del sys.modules["pandas"]
