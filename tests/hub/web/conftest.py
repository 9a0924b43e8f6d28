"""A dashboard of a hub without devices, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.peers.browser import open_browser
from tests.worlds.dashboard import DashboardWorld
from tests.worlds.hub import make_database, make_repository


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardWorld]:
    folder = tmp_path_factory.mktemp("dashboard") / "hub"
    make_repository(folder, ["line-a"])
    make_database(folder)
    started = DashboardWorld(folder)
    yield started
    started.close()
