"""Prometheus metrics of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from lineside_runtime.cache.stats import CacheStats
from lineside_runtime.errors import (
    DeadlineExceededError,
    DeviceBusyError,
    InputError,
    LinesideError,
    OverloadedError,
    RequestError,
)
from lineside_runtime.server.repository import ModelRepository
from lineside_runtime.serving.types import Prediction
from lineside_runtime.session import Session

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format"""
UNKNOWN_MODEL = "(unknown)"
"""Stands for every name that isn't served, so that a client can't make as many time series as it likes."""

_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counts what the server does; every method may be called from any thread."""

    def __init__(self, repository: ModelRepository, in_flight: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lineside_requests",
            "Inference requests by model, protocol and outcome",
            ["model", "protocol", "outcome"],
            registry=self._registry,
        )
        self._answers = Counter(
            "lineside_answers",
            "Answered requests by the device asked for and the device used",
            ["model", "requested_device", "used_device", "fell_back", "cached"],
            registry=self._registry,
        )
        self._queue = Histogram(
            "lineside_queue_seconds",
            "Time from a request's arrival to its turn",
            ["model"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._inference = Histogram(
            "lineside_inference_seconds",
            "Time in the engine that answered",
            ["model", "used_device"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._request = Histogram(
            "lineside_request_seconds",
            "Time from a request's arrival to its answer, sending not included",
            ["model", "protocol"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._access = Counter(
            "lineside_access_refused",
            "Requests of any kind without the right token, or under a foreign name",
            ["protocol"],
            registry=self._registry,
        )
        self._registry.register(_Sessions(repository, in_flight))
        ProcessCollector(registry=self._registry)

    def answered(self, model: str, protocol: str, prediction: Prediction, *, queued_s: float, took_s: float) -> None:
        """Counts a call that was answered."""
        self._requests.labels(model, protocol, "ok").inc()
        fell_back = "true" if prediction.fell_back else "false"
        devices = prediction.requested_device, prediction.used_device
        self._answers.labels(model, *devices, fell_back, prediction.cached or "no").inc()
        self._queue.labels(model).observe(queued_s)
        if prediction.cached is None:
            self._inference.labels(model, prediction.used_device).observe(prediction.inference_ms / 1e3)
        self._request.labels(model, protocol).observe(took_s)

    def refused(self, model: str, protocol: str, outcome: str) -> None:
        """Counts a call that was not answered."""
        self._requests.labels(model, protocol, outcome).inc()

    def access_refused(self, protocol: str) -> None:
        """Counts a request that was not let in."""
        self._access.labels(protocol).inc()

    def text(self) -> bytes:
        """Returns everything in Prometheus' text format."""
        return generate_latest(self._registry)


def outcome_of(error: LinesideError) -> str:
    """Returns the label under which a call that ended with this error is counted."""
    if isinstance(error, OverloadedError | DeviceBusyError):
        return "overloaded"
    if isinstance(error, DeadlineExceededError):
        return "deadline"
    if isinstance(error, RequestError) and error.status == 404:
        return "not_found"
    return "bad_request" if isinstance(error, InputError) else "failed"


class _Sessions(Collector):
    """Reads the sessions' own counters at each scrape."""

    def __init__(self, repository: ModelRepository, in_flight: Callable[[], int]) -> None:
        self._repository = repository
        self._in_flight = in_flight

    def collect(self) -> Iterator[Any]:
        """Yields the sessions' counters."""
        yield GaugeMetricFamily("lineside_in_flight", "Calls that run or wait", value=self._in_flight())
        ready = GaugeMetricFamily("lineside_model_ready", "1 if the model is loaded", labels=["model"])
        info = GaugeMetricFamily(
            "lineside_model_info",
            "Which version and variant runs where",
            labels=["model", "version", "variant", "requested_device", "used_device"],
        )
        calls = CounterMetricFamily("lineside_session_calls", "Calls that the model answered", labels=["model"])
        failures = CounterMetricFamily(
            "lineside_device_failures", "Failures of devices and engines; each is in the log", labels=["model"]
        )
        rerouted = CounterMetricFamily(
            "lineside_rerouted", "Calls that another device answered than the first one asked for", labels=["model"]
        )
        cache = _Cache()
        for model in self._repository.models:
            session = model.session
            ready.add_metric([model.name], float(session is not None))
            if session is not None:
                info.add_metric(_described(model.name, session), 1.0)
                calls.add_metric([model.name], session.calls)
                failures.add_metric([model.name], session.fallback_count)
                rerouted.add_metric([model.name], session.rerouted)
                cache.add(model.name, session.cache_stats)
        yield from (ready, info, calls, failures, rerouted, *cache.families)


class _Cache:
    """The result caches, by level; ``misses`` of the level ``all`` are the calls that a device had to answer."""

    def __init__(self) -> None:
        labels = ["model", "level"]
        self._hits = CounterMetricFamily("lineside_cache_hits", "Calls that the cache answered", labels=labels)
        self._misses = CounterMetricFamily(
            "lineside_cache_misses", "Calls that it was asked and couldn't", labels=labels
        )
        self._errors = CounterMetricFamily("lineside_cache_errors", "Failures of a level", labels=labels)
        self._evictions = CounterMetricFamily("lineside_cache_evictions", "Results given up for room", labels=labels)
        self._drops = CounterMetricFamily(
            "lineside_cache_drops", "Results that a level should have taken and didn't", labels=labels
        )
        self._bytes = GaugeMetricFamily("lineside_cache_bytes", "Room that results take", labels=labels)
        self._up = GaugeMetricFamily("lineside_cache_up", "1 if the level answers", labels=labels)

    def add(self, model: str, stats: CacheStats | None) -> None:
        """Adds the cache of one model."""
        if stats is None:
            return
        self._hits.add_metric([model, "all"], stats.hits)
        self._misses.add_metric([model, "all"], stats.misses)
        for level in stats.levels:
            labels = [model, level.name]
            self._hits.add_metric(labels, level.hits)
            self._misses.add_metric(labels, level.misses)
            self._errors.add_metric(labels, level.errors)
            self._evictions.add_metric(labels, level.evictions)
            self._drops.add_metric(labels, level.drops)
            self._up.add_metric(labels, float(level.up))
            if level.used_bytes is not None:
                self._bytes.add_metric(labels, level.used_bytes)

    @property
    def families(self) -> tuple[Any, ...]:
        """All of them."""
        return self._hits, self._misses, self._errors, self._evictions, self._drops, self._bytes, self._up


def _described(name: str, session: Session) -> list[str]:
    return [name, session.manifest.version, session.variant, session.requested_device, session.used_device]
