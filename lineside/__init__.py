"""lineside: small INT8 vision models on edge boxes beside a production line.

Public API. Names are imported on first use, so that ``import lineside`` is fast on a device and needs no host packages.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineside.benchmark import Benchmark
    from lineside.optimizer import Optimizer
    from lineside.shipped import Session
    from lineside_runtime.cache.config import CacheConfig
    from lineside_runtime.config import Config
    from lineside_runtime.errors import LinesideError

__version__ = "0.1.0"

__all__ = ["Benchmark", "CacheConfig", "Config", "LinesideError", "Optimizer", "Session", "__version__"]

_MODULES = {
    "Benchmark": "lineside.benchmark",
    "CacheConfig": "lineside_runtime.cache.config",
    "Config": "lineside_runtime.config",
    "LinesideError": "lineside_runtime.errors",
    "Optimizer": "lineside.optimizer",
    "Session": "lineside.shipped",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lineside' has no attribute {name!r}")
    from lineside_runtime.system.collector import paused

    with paused():
        return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
