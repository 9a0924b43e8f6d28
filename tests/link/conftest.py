"""Clients that are closed at the end of their test, whatever happens in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside_hub.repository.repository import Repository
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig, Now
from lineside_link.transfer.repository_client import RepoClient
from tests.link.repo import TOPICS, RepoPeer
from tests.peers import Broker
from tests.worlds.hub import make_repository

MakeClient = Callable[..., LinkClient]


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    made: list[LinkClient] = []

    def make(
        config: LinkConfig, client_id: str, *, will: tuple[str, bytes] | None = None, now: Now | None = None
    ) -> LinkClient:
        made.append(LinkClient(config, client_id, will=will, now=now))
        return made[-1]

    yield make
    for client in made:
        client.close(timeout_s=2)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "hub", ["line", "other"])


@pytest.fixture
def peer(repository: Repository, mosquitto: Broker) -> Iterator[RepoPeer]:
    running = RepoPeer(repository, mosquitto.config())
    running.start()
    yield running
    running.close()


@pytest.fixture
def repo(peer: RepoPeer, mosquitto: Broker, make_client: MakeClient) -> RepoClient:
    """A device's side, connected without a proxy, impatient but for patches, which take long beside other tests."""
    client = make_client(mosquitto.config(), "cam-1")
    repo = RepoClient(client, TOPICS, "cam-1", timeout_s=0.5, stall_s=60, delta_wait_s=120)
    client.start()
    assert client.wait_connected(60)
    return repo
