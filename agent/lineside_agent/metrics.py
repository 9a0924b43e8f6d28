"""Prometheus' ``/metrics``: what stands in ``status.json``, as numbers.

Nothing is counted here and nothing shared with the line: each scrape reads the file, half a second old at most.
A ``…_problem``, ``…_error`` or ``…_fault`` is 1 while there is one.
Whether the agent lives is told by ``updated_at_ns``, not by an answer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside_agent.config import MetricsConfig
from lineside_runtime.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger("lineside.agent")

COUNTERS = frozenset(
    {
        *("frames", "inspected", "passed", "rejected", "unsure", "faults", "dropped", "camera_errors"),
        *("camera_outages", "changeovers"),
        *(
            "fallbacks",
            "engine_restarts",
            "recorded",
            "repeated",
            "lost",
            "images_kept",
            "images_lost",
            "images_skipped",
        ),
        *("images_removed", "records_removed", "written_bytes", "written_bytes_ever", "databases_set_aside", "resent"),
        *("drift_alarms_ever", "degradation_steps_ever", "degradation_hurried"),
    }
)
"""What only grows while the agent runs; the rest goes up and down."""


class _Status:
    """A collector of ``prometheus_client``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        try:
            status = json.loads(self._path.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("%s can't be read for /metrics: %s", self._path, error)
            return
        for key, value in _numbers(status):
            kind = CounterMetricFamily if key in COUNTERS else GaugeMetricFamily
            metric = kind(f"lineside_{key}", f"{key} of status.json", labels=["device"])
            metric.add_metric([str(status.get("device", ""))], value)
            yield metric


def _numbers(status: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in status.items():
        if key.endswith(("problem", "error", "fault")):
            yield key, float(value is not None)
        elif isinstance(value, (bool, int, float)):
            yield key, float(value)
        elif isinstance(value, dict):
            yield from ((f"{key}_{name}", number) for name, number in _numbers(value))


def serve(config: MetricsConfig, status: Path) -> Callable[[], None]:
    """Answers scrapes in threads of its own.

    Args:
        config: The ``[metrics]`` table.
        status: Of the file.

    Returns:
        What ends it.

    Raises:
        MissingExtraError: ``prometheus_client`` is not installed.
        ConfigError: The port is taken, or the address isn't one of this machine.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise MissingExtraError("/metrics needs prometheus-client", action="pip install 'lineside[metrics]'") from error
    registry = CollectorRegistry()
    registry.register(_Status(status))
    try:
        server, thread = start_http_server(config.port, config.address, registry)
    except OSError as error:
        raise ConfigError(f"$.metrics: {config.address}:{config.port}: {error}", action="Give another port.") from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end
