"""``kill -9`` of the agent at 200 random moments.

`KILLS` sets another number, `KILL_SEED` other moments. At the end the counts are printed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.moments import PICTURES, run
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.programs import find_program
from tests.worlds.site import Site

KILLS = int(os.environ.get("KILLS", "200"))
SEED = int(os.environ.get("KILL_SEED", "200"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    find_program("mbpoll", "mbpoll")  # with libmodbus, by which the PLC speaks
    broker = Mosquitto(tmp_path / "broker", program=find_mosquitto())
    broker.start()
    made = Site(tmp_path, frames=PICTURES, rate_hz=10.0, broker=broker)
    yield made
    made.end()


@pytest.mark.timeout(3 * 3600)
def test_two_hundred_kills_leave_a_sound_database_and_no_trigger_without_a_trace(site: Site) -> None:
    print(json.dumps(run(site, KILLS, seed=SEED)), file=sys.stderr)
