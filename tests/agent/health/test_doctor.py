"""The doctor's findings."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineside.cli import main
from lineside_agent.config import parse_config
from lineside_agent.deployment.self_update.guard import AgentTrial
from lineside_agent.health.doctor import Examination, collect, examine
from lineside_agent.service.install import install
from lineside_hub.identity.authority import Authority
from lineside_link.config import LinkConfig
from tests.peers.waiting import free_port
from tests.worlds.agent import write_agent
from tests.worlds.secure_site import freeze_authority

CONFIG = b"""
device = "cam-1"
folder = "state"
root = "root.json"
[link]
url = "mqtt://127.0.0.1:1883"
site = "t"
[camera]
type = "simulator"
"""
STATUS = {"ready": True, "installed": "m@1.0.0", "connected": True, "inspected": 1000, "line_io": []}


def well(**changes: Any) -> Examination:
    """An agent with nothing wrong."""
    config = parse_config(CONFIG, Path("/nowhere"))
    seen = Examination(config=config, status=STATUS, free_bytes=1 << 40, changed_files=(), whole=frozenset("a"))
    return msgspec.structs.replace(seen, **changes)


def test_nothing_is_said_of_an_agent_that_is_well() -> None:
    assert examine(well()) == ()


def status(**changes: Any) -> dict[str, Any]:
    return {"status": {**STATUS, **changes}}


@pytest.mark.parametrize(
    ("level", "words", "changes"),
    [
        ("error", "the agent has never run", {"status": {}}),
        ("error", "its last status is 60 s old", {"status_age_s": 60.0}),
        ("error", "the agent runs, but its status is 60 s old", {"status_age_s": 60.0, "runs": True}),
        ("error", "the line is at fault LATE", status(line={"ready": False, "fault": "LATE", "problem": None})),
        (
            "warning",
            "not ready: no bundle runs",
            status(line={"ready": False, "fault": None, "problem": "no bundle runs"}),
        ),
        ("error", "address in use", status(line_io=[{"name": "modbus", "open": False, "problem": "address in use"}])),
        ("error", "PLC last polled 42 s ago", status(line_io=[{"name": "modbus", "open": True, "polled_s_ago": 42.0}])),
        ("warning", "no PLC has polled", status(line_io=[{"name": "modbus", "open": True, "polled_s_ago": None}])),
        ("error", "part numbers can't be reserved", status(numbers_problem="no room")),
        ("error", "pictures /gone are not there", {"missing_pictures": (Path("/gone"),)}),
        (
            "warning",
            "the configuration that was pushed last is refused: config@0123456789ab: [2001] $.inspect.x",
            status(
                configuration_state="failed",
                configuration_wanted="config@0123456789ab",
                configuration_error="[2001] $.inspect.x",
            ),
        ),
        ("error", "recipe b: the bundle x is not there", {"missing_recipes": ("recipe b: the bundle x is not there",)}),
        (
            "error",
            "orders.csv has no expected values",
            {"expected_values_problem": "orders.csv has no expected values"},
        ),
        (
            "warning",
            "label: 7 of 100 marks were not read",
            status(results={"marks": {"label": {"accepted": 90, "refused": 3, "unread": 7}}}),
        ),
        ("error", "bundle x is not there", {"missing_bundle": "the bundle x is not there"}),
        ("warning", "has not inspected anything", status(ready=False)),
        ("error", "cannot open", status(camera_problem="cannot open /dev/video0")),
        ("error", "no room", status(store_problem="no room")),
        ("error", "recipe: [2020] there is no recipe", status(recipe_problem="[2020] there is no recipe 'x'")),
        ("warning", "reduced service (images): 79 °C", status(degradation={"steps": ["images"], "reason": "79 °C"})),
        ("error", "no bundle to run", status(installed=None)),
        ("error", "model.onnx has another size", status(installed=None, bundle_problem="model.onnx has another size")),
        ("error", "7 records are lost", status(lost=7)),
        ("warning", "5% of the frames", status(faults=50)),
        ("error", "missed 3 verdicts", status(line_io=[{"name": "serial", "missed": 3}])),
        ("warning", "has changed: sharpness-low", status(drift={"alarms": ["sharpness-low: sharpness is -2"]})),
        ("warning", "can't be reached", {"broker_problem": "refused"}),
        ("warning", "is not connected: bad certificate", status(connected=False, link_problem="bad certificate")),
        ("error", "another agent is connected as cam-1", status(name_conflicts=1)),
        ("warning", "expires in 12 days", {"certificate_days": 12.4}),
        ("error", "has expired", {"certificate_days": -1.0}),
        (
            "warning",
            "expires in 12 days: a person must sign",
            {"certificate_days": 12.4} | status(certificate_problem="a person must sign"),
        ),
        ("warning", "is not renewed: refused", {"certificate_days": 200.0} | status(certificate_problem="refused")),
        ("error", "can't be read", {"certificate_problem": "the certificate can't be read: x"}),
        ("warning", "the clock is 1:00:00 behind", {"clock_behind_s": 3600.0}),
        ("warning", "MiB are free", {"free_bytes": 1 << 20}),
        (
            "warning",
            "the agent that was pushed last is refused: lineside@0.2.0: [5004]",
            status(agent_state="rolled_back", agent_wanted="lineside@0.2.0", agent_error="[5004] taken back"),
        ),
        (
            "warning",
            "the bundle that was pushed last does not run yet: m@2.0.0: [4001]",
            status(state="fetching", wanted="m@2.0.0", error="[4001] no answer"),
        ),
        ("note", "on trial in slot b (spent 2 of 6)", {"trial": AgentTrial("b", "a", "w", 60.0, 600.0, spent=2)}),
        ("note", "not installed as a service", {"changed_files": None}),
        ("warning", "missing or changed: usr/x", {"changed_files": ("usr/x",)}),
        ("error", "no slot holds a whole agent", {"whole": frozenset()}),
    ],
)
def test_finding_names_what_was_seen_and_what_to_do(level: str, words: str, changes: dict[str, Any]) -> None:
    (finding,) = examine(well(**changes))
    assert (finding.level, words in finding.what) == (level, True), finding
    assert finding.action


def test_gate_that_is_energised_to_reject_is_warned_of() -> None:
    for output, findings in (("gate", 1), ("gate_pass", 0)):
        gpio = (
            f'[trigger]\n[gate]\ndelay_ms = 500\n[[line_io]]\ntype = "gpio"\nchip = "c"\noutputs = {{ {output} = 1 }}\n'
        )
        config = parse_config(CONFIG + gpio.encode(), Path("/nowhere"))
        found = [finding.what for finding in examine(well(config=config))]
        assert len(found) == findings, found
        assert all("energised to reject" in what for what in found)


def test_worst_comes_first() -> None:
    found = examine(well(free_bytes=0, changed_files=None, certificate_days=-1.0))
    assert [finding.level for finding in found] == ["error", "warning", "note"]


def test_the_certificate_that_is_examined_is_the_one_in_use(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", site="t0")
    pair = tmp_path / "state" / "identity" / "1a"
    pair.mkdir(parents=True)
    renewed = authority.enroll("cam-1", group="line")
    for path in (renewed.certificate, renewed.key):
        shutil.copy(path, pair / path.name)
    (pair.parent / "current").write_text("1a")
    with freeze_authority(days=-800):
        old = authority.enroll("cam-1", group="line")
    link = LinkConfig("mqtts://127.0.0.1:1", "t0", ca=str(old.ca), certificate=str(old.certificate), key=str(old.key))
    (tmp_path / "root.json").write_text("{}")
    days = collect(write_agent(tmp_path, link=link, group="line"), tmp_path).certificate_days
    assert days is not None
    assert days > 700


def test_look_reads_a_device_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, port = tmp_path / "root", free_port()
    install(root)
    state = tmp_path / "state"
    state.mkdir()
    (state / "status.json").write_text(json.dumps(STATUS))
    (state / "clock").write_text("2999-01-01T00:00:00+00:00")
    long_ago = time.time() - 300
    os.utime(state / "status.json", (long_ago, long_ago))
    config = tmp_path / "agent.toml"
    inspect = b'\n[inspect]\nexpected_values = "orders.csv"\n'
    config.write_bytes(CONFIG.replace(b"1883", str(port).encode()) + inspect)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    seen = collect(config, root)
    assert seen.status_age_s > 290
    assert seen.broker_problem
    assert seen.clock_behind_s > 1e9
    assert (seen.changed_files, seen.whole) == ((), frozenset())
    assert main(["agent", "doctor", "--config", str(config), "--root", str(root), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)["findings"]
    assert any("can't be reached" in finding["what"] for finding in said)
    assert any("orders.csv" in finding["what"] for finding in said)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("made", "behind"), [("2999-01-01T00:00:00Z", True), ("2026-01-01T00:00:00Z", False)])
def test_a_clock_that_was_never_set_is_behind_the_bundle(tmp_path: Path, made: str, behind: bool) -> None:
    (tmp_path / "state" / "current").mkdir(parents=True)
    (tmp_path / "state" / "current" / "manifest.json").write_text(json.dumps({"created_at": made}))
    (tmp_path / "agent.toml").write_bytes(CONFIG.replace(b"1883", str(free_port()).encode()))
    assert (collect(tmp_path / "agent.toml", tmp_path / "root").clock_behind_s > 1e9) is behind


@pytest.mark.parametrize(("camera", "expected"), [('type = "simulator"', False), ('type = "v4l2"', True)])
def test_board_without_a_camera_is_told_only_where_one_is_configured(
    camera: str, expected: bool, tmp_path: Path
) -> None:
    config = tmp_path / "agent.toml"
    config.write_bytes(CONFIG.replace(b'type = "simulator"', camera.encode()))
    said = [finding.what for finding in collect(config, tmp_path).board]
    assert ("the kernel sees no camera" in said) == expected


def test_configuration_that_cannot_be_read_is_the_first_finding(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text("device = 3\n")
    seen = collect(tmp_path / "agent.toml", tmp_path)
    assert "device" in examine(seen)[0].what
