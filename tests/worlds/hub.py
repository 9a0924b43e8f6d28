"""A hub: its repository, its configuration, its process, and what stands in its database."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_link.config import LinkConfig
from tests.peers.processes import ChildProcess


@functools.cache
def _template(groups: tuple[str, ...]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lineside-repository-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Repository.create(folder / "hub", groups=groups)
    return folder / "hub"


def make_repository(folder: Path, groups: Sequence[str]) -> Repository:
    """Makes a repository without a passphrase that has nothing published.

    It is the copy of one that this process made before for the same groups, with the same keys: `Repository.create`
    waits for the disk at each of its files. Where two repositories must differ, `Repository.create` makes the second.

    Args:
        folder: Made here; may be there if no repository is in it.
        groups: To sign for.
    """
    shutil.copytree(_template(tuple(groups)), folder, dirs_exist_ok=True)
    return Repository.open(folder)


def make_trusted_repository(folder: Path, groups: Sequence[str] = ("default",)) -> Repository:
    """Makes a repository in ``folder/hub``, and writes its ``root.json`` into ``folder`` for an agent there."""
    repository = make_repository(folder / "hub", groups)
    (folder / "root.json").write_bytes(repository.root_bytes())
    return repository


@functools.cache
def _empty_database() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lineside-database-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Database.open(folder).close()
    return folder / "hub.db"


def make_database(folder: Path) -> None:
    """Makes the hub's database, empty and of the newest schema, so that the hub's first start need not.

    It is the copy of one that this process made before, with the same epoch.
    """
    shutil.copy2(_empty_database(), folder)


def open_database(folder: Path) -> Database:
    """Opens the hub's database; an empty one is there if there was none.

    `Database.open` makes one by all migrations in turn: 0.06 s of processor time, and it waits for the disk.
    """
    if not (folder / "hub.db").exists():
        make_database(folder)
    return Database.open(folder)


def link_table(link: LinkConfig) -> dict[str, Any]:
    """Returns the ``[link]`` table of a configuration file."""
    values: dict[str, Any] = msgspec.to_builtins(link)
    return {key: value for key, value in values.items() if value is not None}


def write_hub(folder: Path, link: LinkConfig, **tables: Any) -> Path:
    """Writes ``hub.toml`` into the hub's folder; returns its path.

    Args:
        folder: The hub's, with its repository.
        link: To the broker.
        tables: More tables of the file.
    """
    path = folder / "hub.toml"
    path.write_text(tomli_w.dumps({"folder": ".", "link": link_table(link), **tables}))
    return path


class HubProcess(ChildProcess):
    """``lineside hub run`` as a child.

    Args:
        folder: The hub's, with its ``hub.toml``.
        log: For its output.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self.config_path = folder / "hub.toml"
        super().__init__([sys.executable, "-m", "lineside_hub", "run", "--config", str(self.config_path)], log)


def query(folder: Path, statement: str, *values: object) -> list[Any]:
    """Reads rows of the hub's database by plain SQLite, as somebody from outside; none if there is no database yet."""
    path = folder / "hub.db"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as connection:
        return connection.execute(statement, values).fetchall()


def device_events(folder: Path) -> list[tuple[str, str]]:
    """Returns the timeline of a hub as pairs of device and kind, oldest first."""
    database = Database.open(folder)
    try:
        return [(event.device, event.kind) for event in database.events()]
    finally:
        database.close()
