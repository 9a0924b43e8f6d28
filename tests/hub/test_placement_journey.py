"""A device that dies while parts run, on real processes: broker, hub, agent and engine.

The agent runs ``examples/placement.toml`` with a link to the hub, and with a deadline that a busy test machine keeps.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomllib

from lineside.cli import main
from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_hub.fleet.listing import DeviceSummary, list_devices, show_device
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.waiting import wait_for
from tests.worlds.agent import DEVICE
from tests.worlds.hub import query
from tests.worlds.site import TIMEOUT_S, Site

EXAMPLE = Path(__file__).parents[2] / "examples" / "placement.toml"
PARTS = 100
ORT, OTHER = "ort/cpu:0", "openvino/cpu:0"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    example = tomllib.loads(EXAMPLE.read_text())
    tables = {name: example[name] for name in ("bundle", "camera", "inspect")}
    tables["inspect"]["cache"]["sqlite"] = "results.db"
    site = Site(
        tmp_path,
        frames=0,
        rate_hz=1.0,
        broker=Mosquitto(tmp_path / "broker", program=find_mosquitto()),
        trigger={**example["trigger"], "deadline_ms": 5000},
        **tables,
    )
    site.start()
    yield site
    site.end()


def trigger(site: Site, first: int, count: int) -> list[dict[str, Any]]:
    return [ask(site.agent.state, TriggerRequest("trigger", f"P-{number}")) for number in range(first, first + count)]


def kill_engine(site: Site) -> None:
    children = psutil.Process(site.agent.pid).children(recursive=True)
    (engine,) = (each for each in children if "bootstrap.py" in " ".join(each.cmdline()))
    os.kill(engine.pid, signal.SIGKILL)


def summary(site: Site) -> DeviceSummary:
    return show_device(site.hub_folder, DEVICE).summary


def test_an_engine_that_is_killed_costs_no_verdict_and_hub_and_device_tell_of_it(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for(lambda: site.agent.line.get("ready"), 120, what=lambda: f"ready\n{site.agent.log[-3000:]}")
    told = trigger(site, 0, PARTS // 2)
    kill_engine(site)
    told += trigger(site, PARTS // 2, PARTS // 2)
    wait_for(lambda: len(site.results()) == PARTS, TIMEOUT_S, what="100 results at the hub")
    assert {each["verdict"] for each in told} <= {"pass", "reject"}
    assert (site.agent.line["late"], site.agent.line["faults"]) == (0, 0)
    rows = query(
        site.hub_folder,
        "SELECT part_id, verdict, requested_device, used_device, fallbacks FROM results ORDER BY sequence",
    )
    assert [(row[0], row[1]) for row in rows] == [(f"P-{n}", each["verdict"]) for n, each in enumerate(told)]
    assert {row[2] for row in rows} == {"cpu:0"}
    assert {row[3:] for row in rows[: PARTS // 2]} == {(ORT, 0)}
    assert {row[3:] for row in rows[PARTS // 2 :]} in ({(OTHER, 1)}, {(OTHER, 1), (ORT, 0)})
    assert rows[PARTS // 2][3] == OTHER
    wait_for(lambda: _told(site, "placement"), TIMEOUT_S, what="the failure in the hub's timeline")
    assert f"{OTHER} runs the model: {ORT} failed during run" in _told(site, "placement")[0]
    fallbacks = sum(row[4] for row in rows)
    assert summary(site).fallbacks == fallbacks
    wait_for(lambda: site.agent.status["fallbacks"] == fallbacks, TIMEOUT_S, what="the count in the status")

    wait_for(lambda: trigger(site, PARTS, 1) and not _ill(site), TIMEOUT_S, what="ort again")
    wait_for(lambda: not summary(site).device_problem, TIMEOUT_S, what="the way back at the hub")
    assert _told(site, "placement")[-1] == f"{ORT} runs the model: as requested again"
    [device] = list_devices(site.hub_folder)
    assert (device.requested_device, device.used_device) == ("cpu:0", ORT)
    for command in (
        ["agent", "status", "--config", str(site.agent.config_path)],
        ["fleet", "show", DEVICE, "--hub", str(site.hub_folder)],
    ):
        assert main(command) == 0
        assert f"{ORT} (requested cpu:0)" in capsys.readouterr().out


def _told(site: Site, kind: str) -> list[str]:
    return [detail for found, _, detail in site.events() if found == kind]


def _ill(site: Site) -> bool:
    status = site.agent.status
    return not status or status["used_device"] != ORT or bool(status["device_problem"])
