"""A dashboard of a hub without devices, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.browser import browser as browser
from tests.worlds.dashboard import DashboardWorld
from tests.worlds.hub import make_database, make_repository


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardWorld]:
    folder = tmp_path_factory.mktemp("dashboard") / "hub"
    make_repository(folder, ["line-a"])
    make_database(folder)
    started = DashboardWorld(folder)
    yield started
    started.close()
