"""The fleet's /metrics, and the alert rules and the Grafana dashboard that are shipped for it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lineside_hub.config import HubConfig
from lineside_hub.fleet.metrics import HELP, fleet_metrics
from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.results.database import Database
from lineside_hub.results.sql import runner
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_link.config import LinkConfig
from lineside_link.messages import DriftAlarm, DriftReport, Reported, ResultRow, Results, Up, encode
from tests.peers.programs import find_program

EXAMPLES = Path(__file__).parents[3] / "examples" / "monitoring"
ALERTS = EXAMPLES / "lineside-alerts.yml"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path) as made:
        yield made


def samples(database: Database) -> dict[tuple[str, ...], float]:
    config = HubConfig(folder=str(database.path.parent), link=LinkConfig("mqtt://127.0.0.1:1", "s"))
    with runner(config) as run:
        text = fleet_metrics(database, run).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_say_what_the_hub_knows(database: Database) -> None:
    rows = tuple(
        ResultRow(seq=seq, part_id="p", verdict="reject" if seq == 1 else "pass", fallbacks=seq) for seq in (1, 2, 3)
    )
    with database.transaction():
        timeline = FleetTimeline(database, group_of=lambda device: None)
        timeline.write_up(Up(device="cam-1", up=True, boot_id="b", group="line-a", board='a "b"\n'))
        drift = DriftReport(alarms=(DriftAlarm(name="x", since_ns=1),))
        timeline.write_reported(Reported(device="cam-1", free_bytes=7, drift=drift))
        ResultsSink(database).write([read_batch("cam-1", encode(Results(epoch="e", rows=rows)))])
    found = samples(database)
    assert found["lineside_fleet_device_up", "cam-1", "line-a"] == 1
    assert found["lineside_fleet_device_free_bytes", "cam-1", "line-a"] == 7
    assert found["lineside_fleet_device_drift_alarms", "cam-1", "line-a"] == 1
    assert found["lineside_fleet_results_total", "cam-1", "pass"] == 2
    assert found["lineside_fleet_results_total", "cam-1", "reject"] == 1
    assert found["lineside_fleet_fallbacks_total", "cam-1"] == 6
    assert found["lineside_hub_free_bytes",] > 0


def test_prometheus_accepts_the_alert_rules_and_raises_them(tmp_path: Path) -> None:
    """By ``promtool test rules``: a device that is silent, one that rejects half of its parts, and one that is well."""
    promtool = find_program("promtool", "prometheus")
    up, changed = "lineside_fleet_device_up", "lineside_fleet_device_changed_timestamp_seconds"
    series = {
        f'{up}{{device="gone", group="a"}}': "0x120",
        f'{changed}{{device="gone", group="a"}}': "60x120",
        f'{up}{{device="well", group="a"}}': "1x120",
        f'{changed}{{device="well", group="a"}}': "60x120",
        'lineside_fleet_results_total{device="well", verdict="pass"}': "0+10x120",
        'lineside_fleet_results_total{device="well", verdict="reject"}': "0+1x120",
        'lineside_fleet_results_total{device="bad", verdict="pass"}': "0+10x120",
        'lineside_fleet_results_total{device="bad", verdict="reject"}': "0+10x120",
    }
    test = {
        "rule_files": [str(ALERTS)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": "100m",
                        "alertname": "LinesideDeviceSilent",
                        "exp_alerts": [
                            {
                                "exp_labels": {"device": "gone", "group": "a", "severity": "critical"},
                                "exp_annotations": {"summary": "gone (a) is not connected"},
                            }
                        ],
                    },
                    {
                        "eval_time": "100m",
                        "alertname": "LinesideRejectRate",
                        "exp_alerts": [
                            {
                                "exp_labels": {"device": "bad", "severity": "warning"},
                                "exp_annotations": {"summary": "bad rejects 50% of its parts"},
                            }
                        ],
                    },
                    {"eval_time": "2m", "alertname": "LinesideDeviceSilent", "exp_alerts": []},
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(json.dumps(test))
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(tmp_path / "test.yml")]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_grafanas_dashboard_asks_for_metrics_that_are_there_in_promql(tmp_path: Path) -> None:
    promtool = find_program("promtool", "prometheus")
    dashboard = json.loads((EXAMPLES / "grafana-fleet.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    text = "\n".join(expressions) + ALERTS.read_text()
    assert {name.removeprefix("lineside_") for name in re.findall(r"\blineside_[a-z_]+", text)} <= HELP.keys()
    plain = [one.replace("$__rate_interval", "5m").replace("$group", ".*") for one in expressions]
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    command = [promtool, "check", "rules", str(tmp_path / "rules.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
