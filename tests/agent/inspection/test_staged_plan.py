"""A placement that is measured when a bundle is staged, and kept beside its slot."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import msgspec
import pytest

from lineside.cli import main
from lineside_agent.config import InspectConfig, parse_config
from lineside_agent.deployment.bundle_trial import try_bundle
from lineside_agent.inspection import staged_plan
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_models.golden import replay
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import ConfigError
from lineside_runtime.serving.serving_plan import AS_CONFIGURED, ServingPlan
from tests.peers.waiting import wait_for
from tests.worlds.agent import TriggeredAgent


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_plan, "LIMIT_S", 0.1)


@pytest.fixture
def staged(bundle: Bundle, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(bundle.path, tmp_path / "slot" / "b"))


def plans(bundle: Bundle) -> list[Path]:
    return sorted(bundle.path.parent.glob("*.plan.json"))


def test_a_staged_bundle_is_measured_once_and_served_as_measured(
    staged: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    config = InspectConfig(objective="latency", workers=2)
    with caplog.at_level(logging.INFO):
        first = load("a", staged, config)
        replay(first.session, staged)
        first.close()
        (file,) = plans(staged)
        kept = json.loads(file.read_bytes())
        assert kept["inputs"] == "the bundle's golden input"
        assert {one["plan"]["workers"] for one in kept["measured"]} <= {1, 2}
        assert caplog.text.count("measuring the ways") == 1
        assert kept["why"] in caplog.text
        planted = ServingPlan(kind="device", devices=("openvino/cpu:0",), threads=1, workers=2)
        kept["chosen"] = msgspec.to_builtins(planted)
        file.write_text(json.dumps(kept))
        again = load("a", staged, config)
        assert (again.session.plan, again.session.used_device) == (planted, "openvino/cpu:0")
        replay(again.session, staged)
        again.close()
        assert caplog.text.count("measuring the ways") == 1  # not again after a restart
        load("a", staged, InspectConfig(objective="throughput", workers=2)).close()
        assert caplog.text.count("measuring the ways") == 2  # another objective


def test_without_an_objective_nothing_is_measured(staged: Bundle) -> None:
    loaded = load("a", staged, InspectConfig())
    assert loaded.session.plan == AS_CONFIGURED
    loaded.close()
    assert plans(staged) == []


@pytest.mark.parametrize("lines", ["rate_hz = 5", 'objective = "throughput"\nrate_hz = 5', 'objective = "fast"'])
def test_an_objective_that_cannot_be_is_refused(tmp_path: Path, lines: str) -> None:
    text = 'device = "d"\nfolder = "state"\nbundle = "b"\n[camera]\ntype = "folder"\npath = "frames"\n'
    with pytest.raises(ConfigError, match=r"rate_hz|objective"):
        parse_config(f"{text}[inspect]\n{lines}\n".encode(), tmp_path)


def test_an_agent_serves_as_planned_and_its_status_says_so(
    staged: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    load("factory", staged, InspectConfig(objective="latency"), measured=state).close()
    (file,) = state.glob("*.plan.json")
    kept = json.loads(file.read_bytes())
    planted = ServingPlan(kind="device", devices=("openvino/cpu:0",), threads=1)
    file.write_text(json.dumps({**kept, "chosen": msgspec.to_builtins(planted), "versions": {}}))
    agent = TriggeredAgent(tmp_path, staged.path, '[inspect]\nobjective = "latency"\n')
    try:
        agent.wait_ready()
        assert ask(agent.state, TriggerRequest("trigger", "P-1"))["verdict"] == "pass"
        wait_for(lambda: agent.status["used_device"] == "openvino/cpu:0", 60, what="the status of the part")
        assert agent.status["placement_plan"] == str(planted)
        assert main(["agent", "status", "--config", str(tmp_path / "agent.toml")]) == 0
        assert f"measured best  {planted}" in capsys.readouterr().out
        assert "placed as measured here" in agent.log
        assert agent.stop() == 0
    finally:
        agent.stop()
    assert [row.used_device for row in agent.rows()] == ["openvino/cpu:0"]


def test_the_trial_of_a_bundle_measures_behind_the_line_and_the_agent_does_not_again(
    staged: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    config = InspectConfig(objective="throughput", engines=("ort",))
    try_bundle(staged, config, None, lambda: False)
    (file,) = plans(staged)
    with caplog.at_level(logging.INFO):
        load("a", staged, config).close()
    assert "measuring the ways" not in caplog.text
    assert json.loads(file.read_bytes())["why"] in caplog.text
