"""lineside: small INT8 vision models on edge boxes beside a production line.

Public API. Names are imported on first use, so that ``import lineside`` is fast on a device and needs no host packages.
"""

from __future__ import annotations

import importlib
import sys
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
    module = _MODULES[name]
    if module not in sys.modules:
        from lineside_runtime.system.collector import paused

        with paused():
            importlib.import_module(module)
    return getattr(importlib.import_module(module), name)  # waits for a thread that is importing it


def __dir__() -> list[str]:
    return __all__
