"""Statements on the results, wherever they are: in ``hub.db`` or in PostgreSQL, with the same SQL for both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from lineside_hub.config import HubConfig
from lineside_hub.results.database import Database, mapped_errors

FETCH_ROWS = 10_000


class SqlRunner(Protocol):
    """A database that runs one statement at a time, each in a transaction of its own."""

    def __call__(self, text: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        """Returns its rows; none for a change."""


@contextlib.contextmanager
def open_runner(url: str, database: Database) -> Iterator[SqlRunner]:
    """Opens the results for some statements.

    Args:
        url: Of PostgreSQL; empty where the results are in ``hub.db``.
        database: The caller's own connection to ``hub.db``.
    """
    if url:
        from lineside_hub.results.postgres import Statements

        with contextlib.closing(Statements(url)) as statements:
            yield statements
        return

    def run(text: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        if text.startswith("SELECT"):
            with mapped_errors(database.path):
                return database.connection.execute(text, parameters).fetchall()
        with database.transaction() as connection:
            connection.execute(text, parameters)
        return []

    yield run


@contextlib.contextmanager
def runner(config: HubConfig) -> Iterator[SqlRunner]:
    """As `open_runner`, for a hub's folder."""
    with (
        Database.open(Path(config.folder)) as database,
        open_runner(config.results.url, database) as run,
    ):
        yield run


def stream(config: HubConfig, text: str, parameters: dict[str, object]) -> Iterator[Sequence[Any]]:
    """Yields the rows of a query, of which only `FETCH_ROWS` are in memory at a time."""
    if config.results.url:
        from lineside_hub.results.postgres import select

        yield from select(config.results.url, text, parameters)
        return
    with Database.open(Path(config.folder)) as database, mapped_errors(database.path):
        cursor = database.connection.execute(text, parameters)
        while rows := cursor.fetchmany(FETCH_ROWS):
            yield from (tuple(row) for row in rows)
