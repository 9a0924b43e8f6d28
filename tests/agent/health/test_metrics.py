"""The metrics, read by Prometheus' own parser over a real socket."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from lineside.cli import main
from lineside_agent.config import MetricsConfig
from lineside_agent.health.metrics import COUNTERS, HELP, RECENT, serve
from lineside_agent.health.pushed_artifacts import KEYS
from lineside_agent.health.result_statistics import OTHER_TYPES, TYPES_MAX, ResultStatistics
from lineside_agent.line_io.events import Code
from lineside_link.messages import ResultRow
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError
from tests.agent.line_io.conftest import StartLine
from tests.agent.line_io.conftest import start_line as start_line
from tests.peers.waiting import free_port, wait_for
from tests.worlds.agent import AgentProcess, write_agent, write_frames

STATUS = {
    "device": "cam-7",
    "state": "active",
    "inspected": 12,
    "connected": True,
    "latency_ms": 3.5,
    "camera_problem": "[2009] gone",
    "store_problem": None,
    "images_bytes": None,
    "configuration_state": "failed",
    "configuration_wanted": "config@0123456789ab",
    "configuration_error": "[2001] refused",
    "plc_polled_s_ago": 4.5,
    "line": {"ready": False, "late": 3, "fault": "LATE", "problem": None},
}


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    chosen = free_port()
    end = serve(MetricsConfig(port=chosen), tmp_path / "status.json")
    yield chosen
    end()


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    assert all(sample.labels.pop("device") == "cam-7" for sample in samples)
    return {" ".join((sample.name, *sample.labels.values())): sample.value for sample in samples}


def test_numbers_and_problems_of_the_status_are_told(port: int, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps(STATUS))
    assert scrape(port) == {
        "lineside_inspected_total": 12,
        "lineside_connected": 1,
        "lineside_latency_ms": 3.5,
        "lineside_camera_problem": 1,
        "lineside_store_problem": 0,
        "lineside_configuration_error": 1,
        "lineside_pushed_problem_info configuration config@0123456789ab": 1,
        "lineside_plc_polled_s_ago": 4.5,
        "lineside_line_fault": 1,
        "lineside_line_problem": 0,
        "lineside_line_ready": 0,
        "lineside_line_late": 3,
    }


TABLES = """
[drift]
reference_frames = 100
[degrade]
[gate]
delay_ms = 5000
[[recipe]]
name = "a"
"""


def families_of(port: int) -> dict[str, Metric]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        found = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    return {name: family for name, family in found.items() if name.startswith("lineside_")}


def values_of(family: Metric, label: str) -> dict[str, float]:
    """Samples that are not 0, by the value of a label."""
    return {sample.labels[label]: sample.value for sample in family.samples if sample.value}


def test_results_are_counted_by_code_and_defect_type_with_their_latency(start_line: StartLine) -> None:
    port = free_port()
    agent = start_line(f"{TABLES}\n[metrics]\nport = {port}\n", trigger={"deadline_ms": 5000})
    agent.wait_ready()
    for _ in range(3):
        main(["agent", "trigger", "--config", str(agent.config_path)])
    main(["agent", "trigger", "--config", str(agent.config_path), "--part", "A" * 129])
    wait_for(lambda: agent.status["results"]["codes"]["BAD_TRIGGER"] == 1)
    assert {key for keys in KEYS.values() for key in keys} <= agent.status.keys()
    families = families_of(port)
    assert values_of(families["lineside_results"], "code") == {"PASS": 2, "REJECT": 1, "BAD_TRIGGER": 1}
    assert len(families["lineside_results"].samples) == len(Code) - 1, "a code is 0 before it occurs"
    assert values_of(families["lineside_defects"], "type") == {"bright": 1}
    (model,) = families["lineside_model_info"].samples
    shown = {"model": "bright-spots", "requested_device": "cpu:0", "used_device": "ort/cpu:0"}
    assert shown.items() <= model.labels.items()
    latency = families["lineside_result_latency_seconds"]
    assert latency.type == "histogram"
    samples = {(sample.name.rpartition("_")[2], sample.labels.get("le")): sample.value for sample in latency.samples}
    assert samples["count", None] == samples["bucket", "+Inf"] == 3  # the refused part is not among them
    assert samples["bucket", "5.0"] == 3
    assert 0 < samples["sum", None] < 15
    described = {name.removeprefix("lineside_"): family.documentation for name, family in families.items()}
    assert {name: text for name, text in described.items() if name not in HELP and not name.startswith(RECENT)} == {}
    assert all(len(text.split()) > 1 and name not in text for name, text in described.items() if "_" in name)


def test_frames_of_a_line_without_triggers_are_counted_too(tmp_path: Path, bundle: Bundle) -> None:
    write_frames(tmp_path / "frames", 5)
    write_agent(tmp_path, bundle=str(bundle.path), exit_when_done=True)
    agent = AgentProcess(tmp_path)
    agent.start()
    assert agent.wait() == 0
    results = json.loads((tmp_path / "state" / "status.json").read_text())["results"]
    assert {code: count for code, count in results["codes"].items() if count} == {"PASS": 3, "REJECT": 2}
    assert results["defects"] == {"bright": 2}
    assert sum(results["latency_counts"]) == 5


def test_number_of_defect_types_is_bounded() -> None:
    statistics = ResultStatistics()
    for number in range(3 * TYPES_MAX):
        box = (f"type-{number % (2 * TYPES_MAX)}", 0.9, 0.0, 0.0, 1.0, 1.0)
        row = ResultRow(seq=number, part_id="p", verdict="reject", detections=(box,))
        statistics.add(Code.REJECT, row, 0.01)
    defects = statistics.status()["defects"]
    assert len(defects) == TYPES_MAX + 1
    assert (defects["type-0"], defects[OTHER_TYPES]) == (2, TYPES_MAX)


def test_every_counter_has_a_help_text() -> None:
    assert set(COUNTERS) < set(HELP)


def test_status_that_is_not_there_yet_is_no_error(port: int) -> None:
    assert scrape(port) == {}


def test_port_that_is_taken_is_said(port: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(port)):
        serve(MetricsConfig(port=port), tmp_path / "status.json")
