"""A million results from a hundred devices, while hub, broker and devices are killed fifty times: each row once.

The rows are counted from outside, by sqlite3 in this process. ``LINESIDE_RESULTS`` and ``LINESIDE_KILLS`` make it
smaller. The log of a whole run is in docs/figures/link.md.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from tests.peers.brokers import Broker, Mosquitto, find_mosquitto
from tests.peers.processes import ChildProcess
from tests.peers.waiting import wait_for
from tests.worlds.hub import HubProcess, make_repository, write_hub

SITE = "million"
DEVICES, PROCESSES = 100, 4
RESULTS = int(os.environ.get("LINESIDE_RESULTS", "1000000"))
KILLS = int(os.environ.get("LINESIDE_KILLS", "50"))
STALLED_S = 300.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


def count(database: Path) -> tuple[int, int]:
    """Rows, and different keys among them."""
    if not database.exists():
        return 0, 0
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)
    try:
        rows = connection.execute("SELECT count(*) FROM results").fetchone()[0]
        keys = connection.execute("SELECT count(*) FROM (SELECT DISTINCT device, epoch, seq FROM results)").fetchone()[
            0
        ]
        return int(rows), int(keys)
    finally:
        connection.close()


def parts_wrong(database: Path) -> int:
    """Parts that are there not exactly once: what a device recorded is named by device and sequence."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)
    try:
        found = connection.execute(
            "SELECT count(*) FROM (SELECT part_id FROM results GROUP BY part_id HAVING count(*) > 1)"
        )
        return int(found.fetchone()[0])
    finally:
        connection.close()


def progress(database: Path) -> int:
    """By the watermarks: counting a million rows each second would be work of its own."""
    if not database.exists():
        return 0
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)
    try:
        return int(connection.execute("SELECT coalesce(sum(seq), 0) FROM watermarks").fetchone()[0])
    finally:
        connection.close()


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
    database = hub_folder / "hub.db"
    dice = random.Random(7)
    began = time.monotonic()
    kills: dict[str, int] = {"hub": 0, "broker": 0, "devices": 0}
    try:
        for number in range(KILLS):
            threshold = RESULTS * (number + 1) // (KILLS + 2)
            wait_for(lambda: progress(database) >= threshold, STALLED_S, what=f"row {threshold}")  # noqa: B023
            who = ("hub", "devices", "broker", "devices", "hub")[number % 5]
            kills[who] += 1
            victims: dict[str, Broker | ChildProcess] = {"hub": hub, "broker": broker, "devices": dice.choice(devices)}
            victims[who].restart()
        wait_for(lambda: progress(database) >= RESULTS, STALLED_S, what="the last row")
        seconds = time.monotonic() - began
    finally:
        for child in (*devices, hub):
            child.kill()
        broker.stop()
    rows, keys = count(database)
    wrong = parts_wrong(database)
    said = {"results": RESULTS, "devices": DEVICES, "rows": rows, "keys": keys, "twice": wrong, "kills": kills}
    print(json.dumps({**said, "seconds": round(seconds, 1), "rows_s": round(RESULTS / seconds)}))
    assert (rows, keys, wrong) == (RESULTS, RESULTS, 0)
