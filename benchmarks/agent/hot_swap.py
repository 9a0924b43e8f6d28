"""Bundles swapped while parts come: how late is the latest part of a swap, and is any lost?

A hub pushes the shipped INT8 detector under one version after the other, over mosquitto, while a PLC in another process
(``tests/peers/plc.py``: libmodbus, nothing of ours) triggers a part every so often and takes the time of each answer. A
swap is all from the push until a while after the hub has heard that the new bundle is active: fetching, verifying,
loading beside the old one, its golden input and the change itself. Baseline: the same parts between the swaps.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.agent.agents import write_pictures
from benchmarks.smoke import scaled
from lineside_models import zoo
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.waiting import free_port
from tests.worlds.agent import folder_camera
from tests.worlds.plc import ENDLESS, start_plc
from tests.worlds.site import Site

BUNDLE = "surface-12"
RATE_HZ = 20.0
SWAPS = scaled(8, smoke=1)
PAUSE_S = scaled(8.0, smoke=0.5)
"""Between two swaps."""

AFTER_S = scaled(1.0, smoke=0.2)
DEADLINE_MS = 200.0
CYCLE_MS = 1.0
BAR_TIMES = 2.0


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(
            Path(folder), frames=1, rate_hz=RATE_HZ, broker=Mosquitto(Path(folder) / "b", program=find_mosquitto())
        )
        port = _prepare(site)
        answers_path = Path(folder) / "answers"
        try:
            site.start()
            site.wait_state("active", site.push(_version(Path(folder) / "v0", 0)))
            options = ("--rate", str(RATE_HZ), "--answers", str(answers_path))
            plc = start_plc(port, ENDLESS, *options, log=Path(folder) / "plc.log", cycle_ms=CYCLE_MS)
            swaps = [_swap(site, number) for number in range(1, SWAPS + 1)]
            time.sleep(PAUSE_S)
            plc.terminate()
            counted = json.loads(plc.communicate(timeout=60.0)[0])
        finally:
            site.end()
        answers = [json.loads(line) for line in answers_path.read_text().splitlines()]
    return _figures(counted, answers, swaps)


def _prepare(site: Site) -> int:
    port = free_port()
    shutil.rmtree(site.folder / "frames")
    write_pictures(site.folder / "frames", 16, suffix=".png")
    site.configure_agent(
        camera=folder_camera(loop=True),
        trigger={"deadline_ms": DEADLINE_MS},
        line_io=[{"type": "modbus-tcp-server", "port": port}],
    )
    return port


def _version(folder: Path, number: int) -> Bundle:
    """The shipped detector under another version, with the same weights and answers."""
    shutil.copytree(zoo.path(BUNDLE), folder)
    manifest = open_bundle(folder).manifest
    return write_manifest(folder, msgspec.structs.replace(manifest, version=f"9.{number}.0"))


def _swap(site: Site, number: int) -> tuple[float, float]:
    """Pushes a version; returns when it began and ended, on the monotonic clock."""
    bundle = _version(site.folder / f"v{number}", number)
    time.sleep(PAUSE_S)
    began_s = time.monotonic()
    site.wait_state("active", site.push(bundle))
    time.sleep(AFTER_S)
    return began_s, time.monotonic()


def _figures(counted: dict[str, Any], answers: list[Any], swaps: list[tuple[float, float]]) -> dict[str, Any]:
    during = [took for _, _, at_s, took in answers if any(began <= at_s <= ended for began, ended in swaps)]
    usual = [took for _, _, at_s, took in answers if not any(began <= at_s <= ended for began, ended in swaps)]
    usual_p99 = _p99(usual)
    return {
        "baseline": "the same parts between the swaps",
        "bundle": BUNDLE,
        "rate_hz": RATE_HZ,
        "swaps": len(swaps),
        "swap_seconds": [round(ended - began - AFTER_S, 2) for began, ended in swaps],
        **{name: counted[name] for name in ("triggers", "verdicts", "lost", "twice", "numbers_contiguous", "codes")},
        "usual_ms": _spread(usual),
        "during_swaps_ms": _spread(during),
        "latest_of_a_swap_in_usual_p99s": round(max(during) / usual_p99, 3),
        "bar_in_usual_p99s": BAR_TIMES,
        "parts_beyond_the_bar": sum(took > BAR_TIMES * usual_p99 for took in during),
    }


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def _spread(times: list[float]) -> dict[str, float]:
    return {
        "parts": len(times),
        "p50": round(statistics.median(times), 3),
        "p99": round(_p99(times), 3),
        "most": round(max(times), 3),
    }
