"""The reference of the metrics of agent and hub."""

from __future__ import annotations

from lineside_agent.health.metrics import COUNTERS, HELP, RECENT, RECENT_HELP
from lineside_hub.fleet.metrics import HELP as FLEET_HELP
from tests.docs.tables import table

LABELLED = (
    "results",
    "defects",
    "result_latency_seconds",
    "model_info",
    "model_service_ms",
    "model_compute_share",
    "pushed_problem_info",
)
"""Described by hand on the page, with their labels."""


def render() -> str:
    """Returns the table of all metrics without labels of their own."""
    texts = {key: HELP[key] for key in HELP if key not in LABELLED} | {f"{RECENT}…": RECENT_HELP}
    return table(("metric", "type", "meaning"), (_row(key, text) for key, text in texts.items()))


def render_fleet() -> str:
    """Returns the table of the hub's metrics of the fleet."""
    kinds = {key: "counter" if key.endswith("_total") else "gauge" for key in FLEET_HELP}
    return table(
        ("metric", "type", "meaning"), ((f"`lineside_{key}`", kinds[key], text) for key, text in FLEET_HELP.items())
    )


def _row(key: str, text: str) -> tuple[str, str, str]:
    is_counter = key in COUNTERS
    return f"`lineside_{key}{'_total' if is_counter else ''}`", "counter" if is_counter else "gauge", text
