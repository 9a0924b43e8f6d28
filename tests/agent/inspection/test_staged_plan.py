"""A placement that is measured when a bundle is staged, and kept beside its slot."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import msgspec
import pytest

from lineside_agent.config import InspectConfig, parse_config
from lineside_agent.inspection import staged_plan
from lineside_agent.inspection.loaded_bundle import load
from lineside_models.golden import replay
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import ConfigError
from lineside_runtime.serving.serving_plan import AS_CONFIGURED, ServingPlan


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
