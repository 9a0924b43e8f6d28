"""Results in a device's own memory, with an engine of a third party that says that it has some.

The engine is the tests' own (numpy, offered as a GPU), so this shows the rules of the level and of `Executable.keep`.
torch on CUDA implements it by documentation, and nobody has run that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lineside_runtime.bundle import Bundle
from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.cache.stats import LevelStats
from lineside_runtime.config import Config
from lineside_runtime.serving.memory_pressure import relieve
from lineside_runtime.session import Session
from tests.runtime.onnx_models import make_bundle, scaler

X = np.ones((1, 4), np.float32)


@pytest.fixture
def on_card(numpy_engine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gives the engine a memory of its own; returns what happened there."""
    happened: list[str] = []

    def keep_there(executable: Any, outputs: Mapping[str, np.ndarray]) -> Any:
        if executable._device in numpy_engine.unplugged:
            raise numpy_engine.UnpluggedError(executable._device)
        happened.append("kept")
        there = {name: array.copy() for name, array in outputs.items()}

        def fetch() -> dict[str, np.ndarray]:
            if executable._device in numpy_engine.unplugged:
                raise numpy_engine.UnpluggedError(executable._device)
            happened.append("fetched")
            return {name: array.copy() for name, array in there.items()}

        return fetch

    monkeypatch.setattr(numpy_engine.NumpyExecutable, "_keep", keep_there, raising=False)
    return happened


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu", "cpu"))


def config(cache: CacheConfig, engine: str = "numpy") -> Config:
    return Config(engines=(engine,), threads=1, cache=cache)


def level(session: Session, name: str = "device") -> LevelStats:
    assert session.cache_stats is not None
    return next(one for one in session.cache_stats.levels if one.name == name)


ON_DEVICE_ONLY = CacheConfig(memory_bytes=0, device_bytes=1 << 20)


def test_a_result_comes_back_from_the_device_and_says_so(on_card: list[str], bundle: Bundle) -> None:
    with Session(bundle, config(ON_DEVICE_ONLY)) as session:
        assert session.infer(X).cached is None
        answer = session.infer(X)
        assert (answer.cached, answer.used_device, answer.outputs["y"][0, 0]) == ("device", "numpy/npu:0", 2)
        assert on_card == ["kept", "fetched"]
        assert (level(session).hits, level(session).misses, level(session).entries) == (1, 1, 1)
        with pytest.raises(ValueError, match="read-only"):
            answer.outputs["y"][0, 0] = 7


def test_what_host_memory_has_is_not_fetched(on_card: list[str], bundle: Bundle) -> None:
    with Session(bundle, config(CacheConfig(memory_bytes=2500, device_bytes=1 << 20))) as session:
        for number in range(4):
            session.predict(X * number)
        assert session.infer(X * 3).cached == "memory"
        assert "fetched" not in on_card
        assert session.infer(X * 0).cached == "device"  # two fit into host memory
        assert session.infer(X * 0).cached == "memory"


def test_the_devices_budget_is_kept(on_card: list[str], bundle: Bundle) -> None:
    with Session(bundle, config(CacheConfig(memory_bytes=0, device_bytes=2500))) as session:
        for number in range(5):
            session.predict(X * number)
        assert (level(session).entries, level(session).evictions) == (2, 3)
        assert (level(session).used_bytes or 0) <= 2500


def test_a_lost_device_takes_what_it_kept_with_it(on_card: list[str], numpy_engine: ModuleType, bundle: Bundle) -> None:
    with Session(bundle, Config(engines=("numpy", "ort"), threads=1, cache=ON_DEVICE_ONLY)) as session:
        session.predict(X)
        session.predict(2 * X)
        numpy_engine.unplugged.add("npu:0")
        answer = session.infer(X)
        assert (answer.cached, answer.used_device, answer.outputs["y"][0, 0]) == (None, "ort/cpu:0", 2)
        assert (level(session).errors, level(session).entries, level(session).hits) == (1, 0, 0)
        assert "npu:0" in level(session).reason


def test_a_device_without_memory_of_its_own_is_told(bundle: Bundle) -> None:
    with Session(bundle, config(ON_DEVICE_ONLY, "ort")) as session:
        for _ in range(2):
            assert session.infer(X).cached is None
        assert (level(session).drops, level(session).entries) == (2, 0)
        assert level(session).reason == "ort/cpu:0 has no memory of its own"


def test_memory_pressure_empties_the_device(on_card: list[str], bundle: Bundle) -> None:
    with Session(bundle, config(ON_DEVICE_ONLY)) as session:
        session.predict(X)
        assert relieve() > 0
        assert level(session).entries == 0
