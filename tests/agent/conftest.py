"""Fixtures of the agent's tests."""

from __future__ import annotations

import pytest

from lineside_runtime.bundle import Bundle
from tests.worlds.bundles import make_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle; not to be changed."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b")
