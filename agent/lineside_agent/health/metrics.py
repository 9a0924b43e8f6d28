"""Prometheus' ``/metrics``, made from ``status.json``.

Nothing is counted here and nothing is shared with the line: each scrape reads the file, which is half a second old at
most. A ``…_problem``, ``…_error`` or ``…_fault`` is 1 while there is one. ``updated_at_ns`` shows whether the agent
lives, not the answer to a scrape. A page of the reference is generated from `HELP`.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside_agent.config import MetricsConfig
from lineside_agent.health.pushed_artifacts import pushed_problems
from lineside_runtime.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger("lineside.agent")

COUNTERS = frozenset(
    {
        *("frames", "inspected", "passed", "rejected", "unsure", "faults", "dropped", "camera_errors"),
        *("camera_outages", "frames_spoiled", "changeovers"),
        *(
            "fallbacks",
            "device_failures",
            "engine_restarts",
            "cache_hits",
            "cache_misses",
            "recorded",
            "repeated",
            "lost",
            "images_kept",
            "images_lost",
            "images_skipped",
        ),
        *(
            "images_removed",
            "records_removed",
            "written_bytes",
            "written_bytes_ever",
            "databases_set_aside",
            "resent",
            "interactions_lost",
        ),
        *("drift_alarms_ever", "degradation_steps_ever", "degradation_hurried"),
    }
)
"""Metrics that only grow while the agent runs."""

RESULTS = "results"
"""Key of `lineside_agent.health.result_statistics`, whose figures have labels of their own."""

MODELS = "models"
"""Key of the status with the models of the bundle, whose figures have labels of their own."""

HELP = {
    "model_info": "1 for each model of the bundle, with its requested and used device as labels.",
    "model_service_ms": "Time of one of several models for one part in milliseconds, a moving mean.",
    "model_compute_share": "Share of one of several models in that time.",
    "results": "Results that the line was told, by result code (docs/reference/modbus.md).",
    "defects": "Rejected parts by defect type; a part with several types counts for each.",
    "marks": "Marks of each rule in `read`: accepted, refused (read, but wrong or not to be checked) or unread.",
    "result_latency_seconds": "Time from trigger to result, without parts that were refused at their trigger; "
    "from frame to verdict where the line does not trigger.",
    "error": "1 while the bundle that was pushed last does not run.",
    "agent_error": "1 while the version of the agent that was pushed last does not run.",
    "configuration_error": "1 while the configuration that was pushed last is refused.",
    "pushed_problem_info": "1 for each bundle, configuration or agent that was pushed last and does not run, with its "
    "kind and name as labels.",
    "bundle_problem": "1 while the bundle that agent.toml names cannot be used.",
    "recipe_problem": "1 while the chosen recipe cannot run.",
    "changeovers": "Changes from one recipe to another.",
    "source_finished": "1 when a source with an end (folder, video) has no more frames.",
    "frames": "Frames that the cameras gave.",
    "inspected": "Frames or parts that were inspected, faults included.",
    "passed": "Frames or parts that were passed; also those whose pass came too late for the line.",
    "rejected": "Frames or parts that were rejected, unsure ones included.",
    "unsure": "Rejected frames or parts of which the verdict was unsure.",
    "faults": "Frames or parts that could not be inspected.",
    "dropped": "Frames that found no room in the queue to the engine.",
    "camera_errors": "Failures of cameras, tries to open them again included.",
    "camera_outages": "Times that a camera was lost.",
    "frames_spoiled": "Damaged first frames of free-running cameras, which are no parts.",
    "camera_problem": "1 while a camera gives no frames.",
    "engine_restarts": "Restarts of an engine that runs in a process of its own.",
    "device_failures": "Failures of devices and engines that were to run the model.",
    "device_problem": "1 while a device or engine that comes first does not run the model.",
    "cache_hits": "Frames that the result cache answered.",
    "cache_misses": "Frames that the result cache did not know.",
    "fallbacks": "Calls that another device answered than the requested one.",
    "latency_ms": "Time from the last inspected frame to its verdict, in milliseconds.",
    "recorded": "Records written to the database.",
    "repeated": "Frames that had a record already.",
    "lost": "Records for which there was neither disk nor memory.",
    "outbox_pending": "Records that the hub has not confirmed.",
    "interactions_pending": "Recommended and chosen items that the hub has not confirmed.",
    "interactions_lost": "Recommended and chosen items that went beyond `answers_max` before the hub had them.",
    "images_kept": "Images written.",
    "images_lost": "Images that could not be written.",
    "images_skipped": "Images that were not written for want of room or of the day's allowance of writes.",
    "images_removed": "Images deleted by the bounds of [store].",
    "images_bytes": "Size of all kept images in bytes.",
    "images_problem": "1 while images are not kept.",
    "images_unsent": "Kept images that the hub has not got.",
    "frames_sent": "Images that the hub took.",
    "frames_refused": "Images that the hub refused for good.",
    "frames_missing": "Images that were deleted before the hub had them.",
    "frames_problem": "1 while the hub takes no images.",
    "records_bytes": "Size of the records in the database in bytes.",
    "records_removed": "Records deleted by the bounds of [store].",
    "written_bytes": "Bytes written to disk since the agent's start.",
    "written_bytes_ever": "Bytes written to disk by all agents in this state folder.",
    "commit_every_s": "Seconds until a record is on disk at the latest; so much a power cut may take.",
    "written_bytes_a_day": "Pace of writes in bytes a day.",
    "written_problem": "1 while more is written than [store] allows.",
    "databases_set_aside": "Damaged databases that were renamed.",
    "store_problem": "1 while records cannot be written.",
    "numbers_problem": "1 while part numbers cannot be reserved, so that no part is inspected.",
    "line_io_problem": "1 while one of the lines (PLC, GPIO, broker) cannot be reached.",
    "plc_polled_s_ago": "Seconds since a PLC that polls the agent did so last; of several the longest.",
    "line_fault": "1 while the line is at fault and every part is rejected until the reset.",
    "line_problem": "1 while parts cannot be inspected.",
    "line_ready": "1 while a part may come and will be inspected.",
    "line_challenge_left": "Challenge parts that must still be rejected.",
    "line_triggers": "Parts that were triggered.",
    "line_answered": "Parts that were answered.",
    "line_passed": "Answered parts that were passed.",
    "line_rejected": "Answered parts that were rejected by judgement, unsure ones included.",
    "line_unsure": "Rejected parts of which the verdict was unsure.",
    "line_faults": "Answered parts that were not inspected; the line rejects them.",
    "line_late": "Parts without a verdict by their deadline.",
    "line_refused": "Parts that were refused at their trigger: busy, not ready, at fault, stopped or malformed.",
    "line_malformed": "Triggers that were malformed.",
    "line_bounces": "Edges of an input that were no triggers.",
    "line_too_late": "Verdicts that came after their part's answer.",
    "line_gated": "Parts for which the reject gate was opened.",
    "drift_alarm": "1 while there is a drift alarm.",
    "drift_alarms_ever": "Drift alarms.",
    "drift_nearest_share": "How near the nearest drift alarm is: 1 is the alarm.",
    "drift_frames_learned": "Frames that drift detection has learned from.",
    "drift_verdicts_learned": "Verdicts that drift detection has learned from.",
    "degradation_step": "Steps of reduced service that are taken now; 0 is full service.",
    "degradation_steps_ever": "Steps of reduced service that were taken.",
    "degradation_hurried": "Parts that the faster variant inspected because they would have been late.",
    "degradation_temperature_c": "Highest temperature of the board in degrees Celsius.",
    "degradation_late_share": "Share of parts that were late or nearly, or of frames that were dropped.",
    "connected": "1 while the broker of the hub is connected.",
    "link_problem": "1 while the hub cannot be reached.",
    "certificate_problem": "1 while the hub refuses to renew the certificate, or it ends within 30 days.",
    "resent": "Records that were sent to the hub again.",
    "name_conflicts": "Messages of another device with this device's name.",
    "ready": "1 while the agent works: after its first inference, or waiting for a bundle.",
    "agent_on_trial": "1 while a new version of the agent is on trial.",
    "epoch": "Number of the hub's database whose desired state was taken.",
    "gen": "Number of the desired state that was taken.",
    "pid": "Process id of the agent.",
    "updated_at_ns": "When these figures were written, in ns of Unix time; an old time means that the agent has ended.",
}
"""Description of each metric, by its name without ``lineside_``."""

RECENT = "drift_recent_"
"""Prefix of the metrics with a running mean of drift detection, such as ``drift_recent_sharpness``."""

RECENT_HELP = "Mean over the latest frames of this figure of drift detection."


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
        device = str(status.get("device", ""))
        results, models = status.pop(RESULTS, None), status.pop(MODELS, None)
        for key, value in _numbers(status):
            kind = CounterMetricFamily if key in COUNTERS else GaugeMetricFamily
            metric = kind(f"lineside_{key}", help_of(key), labels=["device"])
            metric.add_metric([device], value)
            yield metric
        if isinstance(results, dict):
            yield from _results(results, device)
        yield from _models(models or [], device)
        yield _pushed(status, device)


def help_of(key: str) -> str:
    """Returns the description of a metric, by its name without ``lineside_``."""
    return RECENT_HELP if key.startswith(RECENT) else HELP.get(key, f"`{key}` of the agent's status.")


def _results(results: dict[str, Any], device: str) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    for key, name, label in (("codes", "results", "code"), ("defects", "defects", "type")):
        counter = CounterMetricFamily(f"lineside_{name}", help_of(name), labels=["device", label])
        for value, count in results[key].items():
            counter.add_metric([device, value], count)
        yield counter
    marks = CounterMetricFamily("lineside_marks", help_of("marks"), labels=["device", "rule", "result"])
    for rule, counts in results["marks"].items():
        for result, count in counts.items():
            marks.add_metric([device, rule, result], count)
    yield marks
    name = "result_latency_seconds"
    histogram = HistogramMetricFamily(f"lineside_{name}", help_of(name), labels=["device"])
    bounds = [*map(str, results["latency_bounds_s"]), "+Inf"]
    buckets = list(zip(bounds, itertools.accumulate(results["latency_counts"]), strict=True))
    histogram.add_metric([device], buckets, results["latency_sum_s"])
    yield histogram


def _models(models: list[dict[str, Any]], device: str) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    labels = ("name", "bundle", "requested_device", "used_device")
    info = GaugeMetricFamily("lineside_model_info", help_of("model_info"), labels=["device", "model", *labels[1:]])
    for model in models:
        info.add_metric([device, *(str(model[label]) for label in labels)], 1)
    yield info
    for key in ("service_ms", "compute_share"):
        gauge = GaugeMetricFamily(f"lineside_model_{key}", help_of(f"model_{key}"), labels=["device", "model"])
        for model in models:
            if model[key] is not None:
                gauge.add_metric([device, model["name"]], model[key])
        yield gauge


def _pushed(status: dict[str, Any], device: str) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    name = "pushed_problem_info"
    info = GaugeMetricFamily(f"lineside_{name}", help_of(name), labels=["device", "kind", "name"])
    for problem in pushed_problems(status):
        info.add_metric([device, problem.kind, problem.name], 1)
    return info


def _numbers(status: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in status.items():
        if key.endswith(("problem", "error", "fault")):
            yield key, float(value is not None)
        elif isinstance(value, (bool, int, float)):
            yield key, float(value)
        elif isinstance(value, dict):
            yield from ((f"{key}_{name}", number) for name, number in _numbers(value))


def serve(config: MetricsConfig, status: Path) -> Callable[[], None]:
    """Answers scrapes in threads of its own, and returns the function that ends it."""
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
