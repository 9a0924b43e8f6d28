"""A million results from a hundred devices, while hub, broker and devices are killed fifty times: each row once.

The rows are counted from outside, by sqlite3 in this process. ``LINESIDE_RESULTS`` and ``LINESIDE_KILLS`` make it
smaller. The log of a whole run is in docs/figures/link.md.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import pytest

from tests.peers.brokers import Broker, Mosquitto, find_mosquitto
from tests.peers.processes import ChildProcess
from tests.peers.waiting import wait_for
from tests.worlds.hub import HubProcess, make_repository, query, write_hub

SITE = "million"
DEVICES, PROCESSES = 100, 4
RESULTS = int(os.environ.get("LINESIDE_RESULTS", "1000000"))
KILLS = int(os.environ.get("LINESIDE_KILLS", "50"))
STALLED_S = 300.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


def number(hub: Path, statement: str) -> int:
    """Returns the one number that a statement gives; 0 before the hub has written anything."""
    return int((query(hub, statement) or [(0,)])[0][0])


def progress(hub: Path) -> int:
    """By the watermarks: counting a million rows each second would be work of its own."""
    return number(hub, "SELECT coalesce(sum(seq), 0) FROM watermarks")


def test_each_of_a_million_results_arrives_once(tmp_path: Path) -> None:
    each = RESULTS // DEVICES
    hub_folder = make_repository(tmp_path / "hub", ["line"]).folder
    broker = Mosquitto(tmp_path / "broker", program=find_mosquitto())
    broker.start()
    write_hub(hub_folder, broker.config(site=SITE))
    hub = HubProcess(hub_folder, tmp_path / "hub.log")
    names = [f"cam-{number:03d}" for number in range(DEVICES)]
    program = str(Path(__file__).with_name("million_device.py"))
    devices = [
        ChildProcess(
            [
                sys.executable,
                program,
                broker.url,
                SITE,
                str(tmp_path / "devices"),
                str(each),
                *names[number::PROCESSES],
            ],
            tmp_path / f"devices-{number}.log",
        )
        for number in range(PROCESSES)
    ]
    for child in (hub, *devices):
        child.start()
    dice = random.Random(7)
    began = time.monotonic()
    kills: dict[str, int] = {"hub": 0, "broker": 0, "devices": 0}
    try:
        for kill in range(KILLS):
            threshold = RESULTS * (kill + 1) // (KILLS + 2)
            wait_for(lambda: progress(hub_folder) >= threshold, STALLED_S, what=f"row {threshold}")  # noqa: B023
            who = ("hub", "devices", "broker", "devices", "hub")[kill % 5]
            kills[who] += 1
            victims: dict[str, Broker | ChildProcess] = {"hub": hub, "broker": broker, "devices": dice.choice(devices)}
            victims[who].restart()
        wait_for(lambda: progress(hub_folder) >= RESULTS, STALLED_S, what="the last row")
        seconds = time.monotonic() - began
    finally:
        for child in (*devices, hub):
            child.kill()
        broker.stop()
    rows = number(hub_folder, "SELECT count(*) FROM results")
    keys = number(hub_folder, "SELECT count(*) FROM (SELECT DISTINCT device, epoch, seq FROM results)")
    twice = "SELECT count(*) FROM (SELECT part_id FROM results GROUP BY part_id HAVING count(*) > 1)"
    wrong = number(hub_folder, twice)  # a part is named by its device and sequence
    said = {"results": RESULTS, "devices": DEVICES, "rows": rows, "keys": keys, "twice": wrong, "kills": kills}
    print(json.dumps({**said, "seconds": round(seconds, 1), "rows_s": round(RESULTS / seconds)}))
    assert (rows, keys, wrong) == (RESULTS, RESULTS, 0)
