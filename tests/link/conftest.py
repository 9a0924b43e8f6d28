"""Clients that are closed at the end of their test, whatever happens in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lineside_link.client import LinkClient
from lineside_link.config import LinkConfig

MakeClient = Callable[..., LinkClient]


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    made: list[LinkClient] = []

    def make(config: LinkConfig, client_id: str, *, will: tuple[str, bytes] | None = None) -> LinkClient:
        made.append(LinkClient(config, client_id, will=will))
        return made[-1]

    yield make
    for client in made:
        client.close(timeout_s=2)
