"""What Prometheus is told, read by its own parser over a real socket."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lineside_agent.config import MetricsConfig
from lineside_agent.metrics import serve
from lineside_runtime.errors import ConfigError
from tests.peers.waiting import free_port

STATUS = {
    "device": "cam-7",
    "state": "active",
    "inspected": 12,
    "connected": True,
    "latency_ms": 3.5,
    "camera_problem": "[2009] gone",
    "store_problem": None,
    "images_bytes": None,
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
    assert all(sample.labels == {"device": "cam-7"} for sample in samples)
    return {sample.name: sample.value for sample in samples}


def test_numbers_and_problems_of_the_status_are_told(port: int, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps(STATUS))
    assert scrape(port) == {
        "lineside_inspected_total": 12,
        "lineside_connected": 1,
        "lineside_latency_ms": 3.5,
        "lineside_camera_problem": 1,
        "lineside_store_problem": 0,
        "lineside_configuration_error": 1,
        "lineside_plc_polled_s_ago": 4.5,
        "lineside_line_fault": 1,
        "lineside_line_problem": 0,
        "lineside_line_ready": 0,
        "lineside_line_late": 3,
    }


def test_status_that_is_not_there_yet_is_no_error(port: int) -> None:
    assert scrape(port) == {}


def test_port_that_is_taken_is_said(port: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(port)):
        serve(MetricsConfig(port=port), tmp_path / "status.json")
