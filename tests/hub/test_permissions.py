"""No other user of the machine reads what the hub's database and frames hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest

from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_link.messages import BundleRef
from tests.peers import Broker, wait_for
from tests.worlds.hub import HubProcess, write_hub


@pytest.fixture
def umask(repository: Repository) -> Iterator[None]:
    """As most users have it; the database is still to be made."""
    (repository.folder / "hub.db").unlink()
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(repository: Repository) -> dict[str, int]:
    names = ("hub.db", "hub.db-wal", "frames", "frames-arriving")
    found = {name: repository.folder / name for name in names}
    return {name: stat.S_IMODE(path.stat().st_mode) for name, path in found.items() if path.exists()}


def test_a_new_database_is_its_owners(umask: None, repository: Repository) -> None:
    database = Database.open(repository.folder)
    database.set_desired("g/line-a", BundleRef(name="m", version="1", target="line-a/m-1.json", sha256="1" * 64))
    assert modes(repository) == {"hub.db": 0o600, "hub.db-wal": 0o600}
    database.close()


def test_a_hub_that_let_everybody_read_is_closed_at_its_next_start(
    umask: None, repository: Repository, mosquitto: Broker
) -> None:
    Database.open(repository.folder).close()
    (repository.folder / "hub.db").chmod(0o644)
    for name in ("frames", "frames-arriving"):
        (repository.folder / name).mkdir(mode=0o755)
    write_hub(repository.folder, mosquitto.config(site="test"))
    hub = HubProcess(repository.folder, repository.folder / "hub.log")
    hub.start()
    try:
        wait_for(lambda: modes(repository)["frames-arriving"] == 0o700, what="the hub's start")
        assert (modes(repository)["hub.db"], modes(repository)["frames"]) == (0o600, 0o700)
    finally:
        hub.stop()
