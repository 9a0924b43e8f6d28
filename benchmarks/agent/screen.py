"""What the operator screen costs the line: the same agent without it and with three browsers' worth of clients.

Two agents run the shipped detector on boards of 640 by 640 pixels: one without ``[screen]``, one with it and three
clients. Each client holds one event stream and fetches each image that it is told of, as the page does; the third reads
nothing of its stream, so that its connection stalls. They are a process of another session, as browsers on other
machines are. In each round either agent gets parts at a steady rate from the
PLC of the tests, one agent after the other, in turns, so that the machine's other work meets both. A third part of each
round is the agent with the screen while hostile clients attack it (`benchmarks.agent.screen_attack`).

``capture_to_image_ms`` ends when a client has the last byte of the part's image; a browser then draws it.

Baseline: the agent without a screen.
"""

from __future__ import annotations

import collections
import contextlib
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.agent.agents import memory_bytes
from benchmarks.agent.line_io import run_plc, start_agent
from benchmarks.smoke import scaled
from lineside_models.simulator import render
from tests.peers.waiting import free_port
from tests.worlds.agent import AgentProcess

ROUNDS = scaled(5, smoke=1)
PARTS = scaled(150, smoke=6)
RATE_HZ = 10.0
PICTURES = 16
READERS = 2
ATTACKING_CONNECTIONS = scaled(1000, smoke=100)
BARS = {"extra_rss_mb": 20.0, "capture_to_image_p95_ms": 300.0}


def run() -> dict[str, Any]:
    """Measures milliseconds and megabytes."""
    images = [render("pcb", seed).image for seed in range(PICTURES)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        plc_ports = {"off": free_port(), "on": free_port()}
        screen_port = free_port()
        agents: dict[str, AgentProcess] = {}
        memory: dict[str, dict[str, int]] = {}
        configured: dict[str, dict[str, Any]] = {"off": {}, "on": {"screen": {"port": screen_port}}}
        for name, tables in configured.items():
            place = Path(folder) / name
            place.mkdir()
            agents[name] = start_agent(place, None, images, plc_ports[name], **tables)
            stack.callback(agents[name].stop)
        clients = stack.enter_context(_started("screen_clients", screen_port, READERS, 1))
        if clients.stdout is not None:
            clients.stdout.readline()
        rounds: dict[str, list[dict[str, Any]]] = {"off": [], "on": [], "attacked": []}
        attacks: list[dict[str, Any]] = []
        for number in range(ROUNDS):
            for name in ("off", "on") if number % 2 else ("on", "off"):
                rounds[name].append(run_plc(plc_ports[name], "--rate", str(RATE_HZ), parts=PARTS))
            memory = memory if number else {name: memory_bytes(agent.pid) for name, agent in agents.items()}
            with _attack(screen_port, attacks):
                rounds["attacked"].append(run_plc(plc_ports["on"], "--rate", str(RATE_HZ), parts=PARTS))
        attacked_memory = memory_bytes(agents["on"].pid)
        time.sleep(1.0)  # the last records are committed
        shown: list[float] = sorted(json.loads(clients.communicate("")[0]))
        records = {name: _records(Path(folder) / name) for name in agents}
    triggers = {name: sum(one["triggers"] for one in rounds[name]) for name in rounds}
    answered = {"off": triggers["off"], "on": triggers["on"] + triggers["attacked"]}
    p99 = {name: [one["p99_ms"] for one in rounds[name]] for name in rounds}
    return {
        "baseline": "the same agent without [screen], in turns on the same machine",
        "bars": BARS,
        "parts_a_second": RATE_HZ,
        "clients": READERS + 1,
        "stalled_clients": 1,
        "trigger_to_reject_p50_ms": {name: _median(rounds[name], "p50_ms") for name in rounds},
        "trigger_to_reject_p99_ms": {name: round(statistics.median(p99[name]), 2) for name in p99},
        "p99_ms_of_each_round": p99,
        "rss_mb": {name: round(one["resident"] / 1e6, 1) for name, one in memory.items()},
        "extra_rss_mb": round((memory["on"]["resident"] - memory["off"]["resident"]) / 1e6, 1),
        "lost": {name: sum(one["lost"] for one in rounds[name]) for name in rounds},
        "records_missing": {name: answered[name] - records[name] for name in records},
        "attack": {
            "connections_held": ATTACKING_CONNECTIONS,
            "connections": sum(one["connections"] for one in attacks),
            "answers": dict(sum((collections.Counter(one["answers"]) for one in attacks), collections.Counter())),
            "rss_mb": round(attacked_memory["resident"] / 1e6, 1),
        },
        "triggers": triggers,
        "images_shown": len(shown),
        "capture_to_image_p50_ms": _quantile(shown, 0.5),
        "capture_to_image_p95_ms": _quantile(shown, 0.95),
    }


def _quantile(took_ms: list[float], share: float) -> float | None:
    """A quantile; ``None`` on a machine so busy that every part was late, and had no image."""
    return round(took_ms[int(share * (len(took_ms) - 1))], 1) if took_ms else None


def _median(rounds: list[dict[str, Any]], key: str) -> float:
    return float(round(statistics.median(one[key] for one in rounds), 2))


def _records(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "state" / "records.db")) as opened:
        return int(opened.execute("SELECT count(*) FROM records").fetchone()[0])


@contextlib.contextmanager
def _attack(port: int, attacks: list[dict[str, Any]]) -> Iterator[None]:
    """Attacks meanwhile, and adds the answers."""
    with _started("screen_attack", port, ATTACKING_CONNECTIONS) as attack:
        yield
        attacks.append(json.loads(attack.communicate("", timeout=60)[0]))


@contextlib.contextmanager
def _started(module: str, *arguments: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", f"benchmarks.agent.{module}", *map(str, arguments)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
