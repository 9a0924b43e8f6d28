"""One hub's results in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_hub.config import HubConfig, ResultsConfig
from lineside_hub.results.postgres import PostgresSink, Statements
from lineside_hub.results.sql import SqlRunner, runner
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink, Sink
from lineside_link.config import LinkConfig
from lineside_link.messages import ResultRow, Results, encode
from tests.peers.postgres import PostgresServer
from tests.worlds.hub import make_database, open_database


class Hub:
    """A hub's database of results.

    Attributes:
        run: Runs statements in it.
    """

    def __init__(self, config: HubConfig, run: SqlRunner) -> None:
        self.config = config
        self.run = run

    def add(self, device: str, *rows: ResultRow, epoch: str = "e") -> None:
        batch = read_batch(device, encode(Results(epoch=epoch, rows=rows)))
        if self.config.results.url:
            sink: Sink = PostgresSink(self.config.results.url)
            sink.write([batch])
            sink.close()
            return
        with open_database(Path(self.config.folder)) as database, database.transaction():
            ResultsSink(database).write([batch])


@pytest.fixture(params=["sqlite", "postgres"])
def hub(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hub]:
    url = ""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("server")
        name = f"t{abs(hash(request.node.name)):x}"
        admin = Statements(server.url)
        admin._engine.update_execution_options(isolation_level="AUTOCOMMIT")
        admin(f"CREATE DATABASE {name}", {})
        admin.close()
        url = f"{server.url.rsplit('/', 1)[0]}/{name}"
    else:
        make_database(tmp_path)
    config = HubConfig(folder=str(tmp_path), link=LinkConfig("mqtt://127.0.0.1:1", "s"), results=ResultsConfig(url=url))
    with runner(config) as run:
        yield Hub(config, run)
