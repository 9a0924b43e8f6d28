"""An engine that runs a part of a model on the device that was asked for, and leaves the rest to the CPU."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from lineside_runtime import registry
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import PartialFallbackError
from lineside_runtime.session import Session
from tests.runtime.onnx_models import make_bundle, scaler

X = np.ones((1, 4), np.float32)

ENGINE = """
from lineside_runtime.backend import Backend, Executable
from lineside_runtime.devices import Device
from lineside_runtime.errors import EngineError, PartialFallbackError

class Doubling(Executable):
    def _run(self, inputs):
        return {"y": inputs["x"] * 2}
    def _close(self):
        pass

class Mine(Backend):
    name, package, formats = "partial", "partial", frozenset({"onnx"})
    version = "1"
    def _probe(self):
        return [Device("npu")]
    def _load(self, model, device, options):
        executable = Doubling()
        executable.shortfall = PartialFallbackError("Resize ×2 of 57 nodes run on the CPU")
        if options.whole:
            raise executable.shortfall
        return executable
    def _vendor_errors(self):
        return ()
    def _translate(self, error, stage):
        return EngineError(str(error))
"""


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    place = tmp_path / "site"
    info = place / "partial-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "engine_partial.py").write_text(ENGINE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: partial\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\npartial = engine_partial:Mine\n")
    monkeypatch.syspath_prepend(str(place))
    importlib.invalidate_caches()
    monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    return make_bundle(tmp_path / "bundle", scaler(2.0), device_kinds=("npu", "cpu"))


@pytest.mark.parametrize("isolate", [(), ("partial",)], ids=["in this process", "in its own"])
def test_it_serves_and_the_session_says_what_runs_elsewhere(bundle: Bundle, isolate: tuple[str, ...]) -> None:
    with Session(bundle, Config(engines=("partial", "ort"), isolate=isolate)) as session:
        np.testing.assert_array_equal(session.predict(X)["y"], 2 * X)
        assert session.used_device == "partial/npu:0"
        assert [fallback.code for fallback in session.fallbacks] == [1011]
        assert "Resize ×2 of 57 nodes run on the CPU" in session.fallbacks[0].reason
        assert session.fallbacks[0].during == "load"


def test_where_no_fall_back_is_allowed_it_is_refused(bundle: Bundle) -> None:
    with pytest.raises(PartialFallbackError, match="Resize"):
        Session(bundle, Config(engines=("partial",), fallback_strategy="error"))
