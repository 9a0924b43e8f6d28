"""``kill -9`` of an agent at random moments, while a PLC triggers parts and records go home over mosquitto to a hub.

What must hold is read from outside, of a dead agent's files: by the ``sqlite3`` program and by plain SQL, with nothing
of ours. The PLC (``tests/peers/plc.py``) says what the line was told.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from lineside_models import zoo
from lineside_models.simulator import render
from tests.peers.programs import find_program
from tests.peers.waiting import free_port, wait_for
from tests.worlds.agent import DEVICE, folder_camera
from tests.worlds.hub import query
from tests.worlds.plc import ENDLESS, start_plc
from tests.worlds.site import TIMEOUT_S, Site

PICTURES = 16
IN_START = 0.3
"""Share of the kills that fall within the time that a start takes."""

LOAD_S = 1.5
"""The others fall within so long behind its first judged part."""

MORE_KILLS = 10
"""Limit of the kills, as a multiple of `rounds`, while none has met a part that was begun and not yet recorded."""

LAST_PARTS = 40
"""Parts that the last agent judges before the PLC stops."""

PASS, REJECT, UNSURE = 1, 2, 10


class Row(NamedTuple):
    """A record as it lies on the device's disk."""

    seq: int
    sequence: int
    verdict: str
    part_id: str
    error: str


def prepare(site: Site) -> int:
    """Makes the site's agent one that a PLC triggers; returns the port."""
    port = free_port()
    for path in (site.folder / "frames").iterdir():
        path.unlink()
    for seed in range(PICTURES):
        cv2.imwrite(str(site.folder / "frames" / f"{seed:04d}.png"), np.asarray(render("steel", seed).image))
    site.configure_agent(
        bundle=str(zoo.path("surface-12")),
        camera=folder_camera(loop=True),
        trigger={"deadline_ms": 200.0},
        line_io=[{"type": "modbus-tcp-server", "port": port}],
    )
    return port


def run(site: Site, rounds: int, *, seed: int) -> dict[str, Any]:
    """Kills the agent so often, and checks its disk each time.

    Args:
        site: Of which only the broker runs.
        rounds: Kills at least; more follow until one has left a part without a record, see `MORE_KILLS`.
        seed: Of the moments.

    Returns:
        What was counted.
    """
    sqlite3_program = find_program("sqlite3", "sqlite3")
    port = prepare(site)
    site.hub.start()
    chance = random.Random(seed)
    start_s = _start(site)
    plc = start_plc(port, ENDLESS, "--mortal", "--rush", "0.05", log=site.folder / "plc.log")
    counts: Counter[str] = Counter()
    kills = 0
    try:
        rows: list[Row] = []
        while kills < rounds or (kills < MORE_KILLS * rounds and not _unrecorded(rows)):
            _wait_moment(site, chance, start_s, counts)
            assert site.agent.alive, site.agent.log[-3000:]
            site.agent.kill()
            kills += 1
            rows = check_dead(site, sqlite3_program)
            site.agent.start()
        wait_for(lambda: _is_judging(site), TIMEOUT_S, what="a verdict after the last kill")
        wait_for(lambda: _judged(site) >= LAST_PARTS, TIMEOUT_S, what="parts after the last kill")
        plc.send_signal(signal.SIGTERM)
        told = json.loads(plc.communicate(timeout=TIMEOUT_S)[0])
        ended_ns = time.time_ns()
    finally:
        if plc.poll() is None:
            plc.kill()
            plc.wait()
    wait_for(lambda: _has_sent_all(site, ended_ns), TIMEOUT_S, what="all records at the hub")
    site.end()
    check_dead(site, sqlite3_program)
    return {"kills": kills, "seed": seed, **counts, **check_told(site, told)}


def _start(site: Site) -> float:
    began_s = time.monotonic()
    site.agent.start()
    wait_for(lambda: _is_ready(site), TIMEOUT_S, what="the first Ready")
    return time.monotonic() - began_s


def _is_ready(site: Site) -> bool:
    return bool(site.agent.line.get("ready"))


def _is_judging(site: Site) -> bool:
    """Whether the agent that runs now has judged a part: between two parts it is ready for too short a time to see."""
    return _judged(site) > 0


def _judged(site: Site) -> int:
    line = site.agent.line
    return int(line.get("passed", 0) + line.get("rejected", 0))


def _has_sent_all(site: Site, since_ns: int) -> bool:
    """Whether the hub has confirmed all records, by a status written since then: an older one lacks the last."""
    status = site.agent.status
    return bool(status.get("updated_at_ns", 0) > since_ns and status["outbox_pending"] == 0)


def _wait_moment(site: Site, chance: random.Random, start_s: float, counts: Counter[str]) -> None:
    if chance.random() < IN_START:
        counts["kills_in_start"] += 1
        time.sleep(chance.uniform(0.0, start_s))
        return
    wait_for(lambda: _is_judging(site), TIMEOUT_S, what="a verdict")
    time.sleep(chance.uniform(0.0, LOAD_S))


def check_dead(site: Site, sqlite3_program: str) -> list[Row]:
    """The database of an agent that doesn't run is sound, and says nothing else than what the hub has.

    Returns:
        Its rows.
    """
    epoch, acked, rows = read_records(site.agent.state, sqlite3_program)
    assert not list(site.agent.state.glob("records.db.damaged-*"))
    assert [row.sequence for row in rows] == list(range(len(rows))), "each number has one row, in order"
    at_hub = hub_rows(site, epoch)
    assert set(range(1, acked + 1)) <= set(at_hub), "what the hub has acknowledged it has"
    here = {row.seq: (row.sequence, row.verdict, row.part_id) for row in rows}
    assert {seq: here.get(seq) for seq in at_hub} == at_hub, "what the hub has is on the device too, and the same"
    return rows


def _unrecorded(rows: list[Row]) -> set[int]:
    """Returns the numbers of the parts that a kill has left without a record; the next start writes a row for each."""
    return {row.sequence for row in rows if row.error.startswith("unrecorded")}


def read_records(state: Path, sqlite3_program: str) -> tuple[str, int, list[Row]]:
    """Reads a copy, so that nothing is mended on the way: epoch, the hub's watermark, and the rows by ``seq``."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("records.db", "records.db-wal"):
            if (state / name).exists():
                shutil.copy(state / name, folder)
        copy = Path(folder) / "records.db"
        done = subprocess.run(
            [sqlite3_program, str(copy), "PRAGMA integrity_check"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "ok\n", done.stdout
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
            found = connection.execute("SELECT seq, sequence, verdict, body FROM records ORDER BY seq").fetchall()
    rows = []
    for seq, sequence, verdict, body in found:
        content = json.loads(body)
        rows.append(Row(seq, sequence, verdict, content["part_id"], content.get("error", "")))
    return meta["epoch"], int(meta["acked"]), rows


def hub_rows(site: Site, epoch: str) -> dict[int, tuple[int, str, str]]:
    """What the hub has committed, by ``seq``."""
    statement = "SELECT seq, sequence, verdict, part_id FROM results WHERE device = ? AND epoch = ?"
    found = query(site.hub_folder, statement, DEVICE, epoch)
    return {
        seq: (sequence, "reject" if verdict == "unsure" else verdict, part) for seq, sequence, verdict, part in found
    }


def check_told(site: Site, told: dict[str, Any]) -> dict[str, Any]:
    """Each part that the agent took has its record or its row ``unrecorded``, and nothing else has one.

    A trigger that the agent has confirmed was taken; of one that a kill has left unconfirmed the PLC does not know.
    """
    epoch, acked, rows = read_records(site.agent.state, find_program("sqlite3", "sqlite3"))
    by_number = {row.sequence: row for row in rows}
    named = Counter(row.part_id for row in rows)
    unrecorded = _unrecorded(rows)
    answers = [(part, by_number[number], code) for part, number, code in told["told"]]
    numbers = [number for _, number, _ in told["told"]]
    assert len(numbers) == len(set(numbers)), "no number was told twice"
    parts = Counter(part for part, _, _ in told["told"])
    assert max(parts.values()) == 1, "no part was told twice"
    kept = [(part, row, code) for part, row, code in answers if row.sequence not in unrecorded]
    assert [row.part_id for _, row, _ in kept] == [f"part-{part}" for part, _, _ in kept]
    assert [row.verdict for _, row, _ in kept] == [_verdict(code) for _, _, code in kept]
    confirmed = set(range(1, told["triggers"] + 1)) - set(told["unconfirmed"])
    without = [part for part in sorted(confirmed - set(parts)) if not named[f"part-{part}"]]
    told_unrecorded = len(answers) - len(kept)
    maybe = [part for part in told["unconfirmed"] if part not in parts and not named[f"part-{part}"]]
    assert told_unrecorded == 0, "a told verdict has its record"
    untold = len(unrecorded)
    assert len(without) <= untold, "a trigger vanished without a trace"
    assert untold <= len(without) + len(maybe), "a row of a part that never existed"
    assert not [row for row in rows if row.verdict == "unknown"], "after a kill it is known which parts were begun"
    assert acked == len(rows) == len(hub_rows(site, epoch))
    return {
        "triggers": told["triggers"],
        "told": len(answers),
        "records": len(rows),
        "told_and_unrecorded": told_unrecorded,
        "neither_told_nor_recorded": len(without),
        "rows_unrecorded": len(unrecorded),
        "at_the_hub": acked,
    }


def _verdict(code: int) -> str:
    return "pass" if code == PASS else "reject" if code in (REJECT, UNSURE) else "fault"
