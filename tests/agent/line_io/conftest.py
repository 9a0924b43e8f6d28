"""Agents and a serial port for the tests of the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_runtime.bundle import Bundle
from tests.agent.line_io.serial_peer import SerialPeer
from tests.worlds.agent import TriggeredAgent

StartLine = Callable[..., TriggeredAgent]


@pytest.fixture
def start_line(tmp_path: Path, bundle: Bundle) -> Iterator[StartLine]:
    """Starts an agent with a ``[trigger]`` table and the given tables."""
    agents: list[TriggeredAgent] = []

    def make(tables: str, **settings: Any) -> TriggeredAgent:
        agents.append(TriggeredAgent(tmp_path, bundle.path, tables, **settings))
        return agents[-1]

    yield make
    for agent in agents:
        agent.stop()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[SerialPeer]:
    made = SerialPeer(tmp_path / "ttyLINE")
    yield made
    made.unplug()
