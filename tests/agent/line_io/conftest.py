"""Agents for the tests of the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside_runtime.bundle import Bundle
from tests.agent.line_io.agents import LineAgent
from tests.worlds.bundles import make_bundle

StartLine = Callable[..., LineAgent]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def start_line(tmp_path: Path, bundle: Bundle) -> Iterator[StartLine]:
    """Starts an agent with a ``[trigger]`` table and the given tables."""
    agents: list[LineAgent] = []

    def make(tables: str, **settings: str) -> LineAgent:
        agents.append(LineAgent(tmp_path, bundle, tables, **settings))
        return agents[-1]

    yield make
    for agent in agents:
        agent.stop()
