"""Hub processes behind real brokers, and small bundles for the tests of the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_link.topics import Topics
from lineside_runtime.bundle import Bundle
from tests.peers import Broker
from tests.peers.postgres import PostgresServer
from tests.worlds.bundles import make_opaque_bundle
from tests.worlds.hub import HubProcess, make_database, make_repository, open_database, write_hub
from tests.worlds.results_device import ResultsDevice

SITE = "test"
GROUP = "line-a"


@pytest.fixture(scope="module", autouse=True)
def _quick_passphrases(quick_passphrases: None) -> None:
    """For all tests here; the test of the rounds restores them."""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A hub's folder with an empty repository and an empty database."""
    made = make_repository(tmp_path / "hub", [GROUP])
    make_database(made.folder)
    return made


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def hub_process(tmp_path: Path, repository: Repository, broker: Broker) -> Iterator[HubProcess]:
    write_hub(repository.folder, broker.config(site=SITE))
    process = HubProcess(repository.folder, tmp_path / "hub.log")
    process.start()
    yield process
    process.kill()


@pytest.fixture
def device(broker: Broker) -> Iterator[ResultsDevice]:
    connected = ResultsDevice(broker.url, Topics(SITE), group=GROUP)
    assert connected.link.wait_connected(60)
    yield connected
    connected.link.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """PostgreSQL."""
    started = PostgresServer()
    started.start()
    yield started
    started.stop()


BundleMaker = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> BundleMaker:
    """Builds bundles whose model is some bytes: the hub never looks into it."""

    def make(version: str, *, name: str = "surface", content: bytes = b"model") -> Bundle:
        folder = tmp_path / "bundles" / f"{name}-{version}-{len(list(tmp_path.glob('bundles/*')))}"
        return make_opaque_bundle(folder, name=name, version=version, model=content)

    return make
