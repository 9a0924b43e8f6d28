"""What Prometheus sees of the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.config import Config
from lineside_runtime.server.metrics import Metrics
from lineside_runtime.server.repository import ModelRepository
from tests.runtime.onnx_models import make_bundle, scaler

X = np.ones((1, 4), np.float32)


def measured(repository: ModelRepository) -> dict[tuple[str, str, str], float]:
    text = Metrics(repository, lambda: 0).text().decode()
    return {
        (sample.name, sample.labels["model"], sample.labels["level"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("lineside_cache_")
    }


def test_hits_and_misses_of_each_level_are_in_the_metrics(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    cache = CacheConfig(sqlite=tmp_path / "cache.db")
    repository = ModelRepository([bundle.path], Config(engines=("ort",), threads=1, cache=cache))
    try:
        session = repository.models[0].session
        assert session is not None
        for _ in range(3):
            session.predict(X)
        session.predict(2 * X)
        found = measured(repository)
        assert found["lineside_cache_hits_total", "test", "memory"] == 2
        assert found["lineside_cache_misses_total", "test", "memory"] == 2
        assert found["lineside_cache_misses_total", "test", "sqlite"] == 2
        assert found["lineside_cache_up", "test", "sqlite"] == 1
        assert found["lineside_cache_bytes", "test", "memory"] > 0
        assert {name for name, _, _ in found} >= {"lineside_cache_errors_total", "lineside_cache_drops_total"}
    finally:
        repository.close()


def test_without_a_cache_nothing_is_said_of_one(tmp_path: Path) -> None:
    repository = ModelRepository([make_bundle(tmp_path / "b", scaler(2.0)).path], Config(engines=("ort",), threads=1))
    try:
        assert measured(repository) == {}
    finally:
        repository.close()
