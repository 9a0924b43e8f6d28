"""A device dies while parts come: is any part late, how long is the one that met it, and when does the device return?

The agent runs ``examples/placement.toml`` with its own deadline: ONNX Runtime in a process of its own, OpenVINO on
standby. Parts are triggered at a fixed rate. In the middle of each trial the engine's process gets SIGKILL. Devices and
latencies are those of the records at a hub, over mosquitto. Baseline: the same parts before each kill.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import tomllib

from benchmarks.smoke import scaled
from lineside_agent.line_io.local import TriggerRequest, ask
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.waiting import wait_for
from tests.worlds.hub import query
from tests.worlds.site import Site

EXAMPLE = Path(__file__).parents[2] / "examples" / "placement.toml"
TRIALS = scaled(10, smoke=1)
PARTS = scaled(100, smoke=40)
RATE_HZ = 20.0
FIRST = "ort/cpu:0"
WAIT_S = 60.0


def run() -> dict[str, Any]:
    """Measures milliseconds and counts."""
    example = tomllib.loads(EXAMPLE.read_text())
    tables = {name: example[name] for name in ("bundle", "camera", "inspect", "trigger")}
    del tables["inspect"]["cache"]  # a cached result needs no device
    tables["trigger"]["late_max"] = 0  # late parts are counted here, and do not end the trials
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder) / "b", program=find_mosquitto())
        site = Site(Path(folder), frames=0, rate_hz=1.0, broker=broker, **tables)
        try:
            site.start()
            wait_for(lambda: site.agent.line.get("ready"), WAIT_S, what="ready")
            for trial in range(TRIALS):
                _trial(site, trial)
            wait_for(lambda: _recorded(site) == TRIALS * PARTS, WAIT_S, what="records at the hub")
            columns = "part_id, verdict, used_device, requested_device, fallbacks, latency_ms, captured_at_ns, error"
            rows = query(site.hub_folder, f"SELECT {columns} FROM results")
        finally:
            site.end()
    return _figures({row[0]: row for row in rows}, tables["trigger"]["deadline_ms"])


def _recorded(site: Site) -> int:
    """Records of the trials at the hub, without the parts between two trials."""
    [[count]] = query(site.hub_folder, "SELECT count(*) FROM results WHERE part_id NOT LIKE '%-after'")
    return int(count)


def _trial(site: Site, trial: int) -> None:
    """Triggers the parts of one trial, and then some until the first device and its standby are back."""
    began_s = time.monotonic()
    for number in range(PARTS):
        time.sleep(max(0.0, began_s + number / RATE_HZ - time.monotonic()))
        if number == PARTS // 2:
            _kill_engine(site)
        ask(site.agent.state, TriggerRequest("trigger", f"{trial}-{number}"))
    wait_for(lambda: _is_back(site, trial), WAIT_S, what=f"the first device: {site.agent.line}")


def _is_back(site: Site, trial: int) -> bool:
    ask(site.agent.state, TriggerRequest("trigger", f"{trial}-after"))
    status = site.agent.status
    return bool(status and not status["device_problem"] and status["standby_device"])


def _kill_engine(site: Site) -> None:
    children = psutil.Process(site.agent.pid).children(recursive=True)
    alive = [each for each in children if each.status() != psutil.STATUS_ZOMBIE]
    [engine] = [each for each in alive if "bootstrap.py" in " ".join(each.cmdline())]
    os.kill(engine.pid, signal.SIGKILL)


def _figures(rows: dict[str, Any], deadline_ms: float) -> dict[str, Any]:
    before = [rows[f"{trial}-{number}"] for trial in range(TRIALS) for number in range(PARTS // 2)]
    after = [[rows[f"{trial}-{number}"] for number in range(PARTS // 2, PARTS)] for trial in range(TRIALS)]
    returns = []
    for parts in after:
        back = next((part for part in parts if part[2] == FIRST), None)
        if back is not None:
            returns.append((back[6] - parts[0][6]) / 1e9)
    flat = [part for parts in after for part in parts]
    return {
        "baseline": "the same parts before each kill",
        "bundle": "surface-12",
        "trials": TRIALS,
        "parts": len(before) + len(flat),
        "rate_hz": RATE_HZ,
        "deadline_ms": deadline_ms,
        "late_before": _late(before),
        "late_after": _late(flat),
        "without_verdict": sum(part[1] == "fault" for part in (*before, *flat)) - _late(before) - _late(flat),
        "records_without_devices": sum(part[1] != "fault" and not (part[2] and part[3]) for part in (*before, *flat)),
        "on_another_device": sum(part[4] > 0 for part in flat),
        "usual_ms": _spread(before),
        "first_after_kill_ms": _spread([parts[0] for parts in after]),
        "after_kill_ms": _spread(flat),
        "back_after_s": round(statistics.median(returns), 2) if returns else None,
        "back_within_trial": len(returns),
    }


def _late(parts: list[Any]) -> int:
    return sum(part[7].startswith("LATE") for part in parts)


def _spread(parts: list[Any]) -> dict[str, float] | None:
    """Latencies of the parts that have a verdict; ``None`` if no part has one."""
    ordered = sorted(part[5] for part in parts if part[1] != "fault")
    if not ordered:
        return None
    return {
        "p50": round(statistics.median(ordered), 3),
        "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3),
        "most": round(ordered[-1], 3),
    }
