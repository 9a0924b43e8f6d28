from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lineside_runtime import registry


@pytest.fixture
def numpy_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A third-party engine, found through its entry point as an installed package's is."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "engine"))
    importlib.invalidate_caches()
    module = importlib.import_module("lineside_numpy_engine")
    module.reset()
    yield module
    module.reset()
    registry._loaded.pop("numpy", None)
    sys.modules.pop("lineside_numpy_engine")
