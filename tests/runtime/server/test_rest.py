from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_runtime.config import Config
from lineside_runtime.server.access import Access
from lineside_runtime.server.limits import ServerLimits
from lineside_runtime.server.repository import ModelRepository
from lineside_runtime.server.rest import RestApi
from lineside_runtime.server.service import Service

UNLOAD = "/v2/repository/models/test/unload"


@pytest.fixture
def service(bundles: Path) -> Iterator[Service]:
    repository = ModelRepository([bundles / "test"], Config(engines=("ort",), threads=1))
    yield Service(repository, ServerLimits(), version="0", model_control=True)
    repository.close()


def posted(service: Service, path: str, *messages: dict[str, Any]) -> int:
    """Posts what arrives bit by bit, and returns the status."""
    sent: list[Any] = []
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(coming)

    async def send(message: Any) -> None:
        sent.append(message)

    api = RestApi(service, Access())
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}

    async def serve() -> None:
        await api.app()(scope, receive, send)

    asyncio.run(serve())
    api.close()
    status: int = sent[0]["status"]
    return status


def test_a_client_that_breaks_off_in_the_middle_of_an_order_changes_nothing(service: Service) -> None:
    begun = {"type": "http.request", "body": b'{"parameters": {', "more_body": True}
    assert posted(service, UNLOAD, begun, {"type": "http.disconnect"}) == 400
    assert service.ready
    assert posted(service, UNLOAD, {"type": "http.request", "body": b""}) == 200
    assert not service.ready
