"""``kill -9`` at a few random moments; `tests/system/test_kill_moments.py` has 200."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.moments import PICTURES, run
from tests.peers import Broker
from tests.peers.programs import find_program
from tests.worlds.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.peer]

KILLS = 4


@pytest.fixture
def site(tmp_path: Path, mosquitto: Broker) -> Iterator[Site]:
    find_program("mbpoll", "mbpoll")  # with libmodbus, by which the PLC speaks
    made = Site(tmp_path, frames=PICTURES, rate_hz=10.0, broker=mosquitto)
    yield made
    made.end()


def test_triggers_survive_kills_of_the_agent_with_a_trace(site: Site) -> None:
    counted = run(site, KILLS, seed=4)
    assert counted["told"] > 10 * KILLS
    assert counted["rows_unrecorded"] > 0
