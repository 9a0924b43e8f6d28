"""Run one bundle: devices, engines, placement, fallback, cache, benchmark, inference server, errors.

The public names are imported on first use: a device pays only for what it needs, and an engine's process may have
nothing but numpy and msgspec.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lineside_runtime.system import telemetry

if TYPE_CHECKING:
    from lineside_runtime.backend import Backend, Executable, LoadOptions
    from lineside_runtime.benchmark import Benchmark
    from lineside_runtime.bundle import Bundle, Manifest, open_bundle
    from lineside_runtime.cache.config import CacheConfig
    from lineside_runtime.config import Config
    from lineside_runtime.devices import Device
    from lineside_runtime.errors import LinesideError
    from lineside_runtime.serving.health import Fallback
    from lineside_runtime.serving.types import Prediction
    from lineside_runtime.session import Pinned, Session
    from lineside_runtime.tensors import TensorSpec

__all__ = [
    "Backend",
    "Benchmark",
    "Bundle",
    "CacheConfig",
    "Config",
    "Device",
    "Executable",
    "Fallback",
    "LinesideError",
    "LoadOptions",
    "Manifest",
    "Pinned",
    "Prediction",
    "Session",
    "TensorSpec",
    "open_bundle",
]

telemetry.turn_off()  # here, since every module that imports an engine imports this package before

_MODULES = {
    "Backend": "backend",
    "Benchmark": "benchmark",
    "Bundle": "bundle",
    "CacheConfig": "cache.config",
    "Config": "config",
    "Device": "devices",
    "Executable": "backend",
    "Fallback": "serving.health",
    "LinesideError": "errors",
    "LoadOptions": "backend",
    "Manifest": "bundle",
    "Pinned": "session",
    "Prediction": "serving.types",
    "Session": "session",
    "TensorSpec": "tensors",
    "open_bundle": "bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lineside_runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lineside_runtime.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
