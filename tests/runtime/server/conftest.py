from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.onnx_models import make_bundle, scaler
from tests.runtime.server import models
from tests.runtime.server.serving import Serving


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles ``echo``, ``busy``, ``large`` and ``test`` (``y = 2 * x``)."""
    folder = tmp_path_factory.mktemp("bundles")
    models.echo(folder / "echo")
    models.busy(folder / "busy")
    models.large(folder / "large")
    make_bundle(folder / "test", scaler(2.0))
    return folder


@pytest.fixture(scope="module")
def serving(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """All of them served, by ONNX Runtime with one thread; clients may load and unload; requests up to 8 MiB."""
    arguments = ("--engine", "ort", "--threads", "1", "--model-control", "--max-body-mb", "8", "--workers", "2")
    with Serving(tmp_path_factory.mktemp("serving"), *sorted(bundles.iterdir()), *arguments) as server:
        yield server
    assert server.process.returncode == 0
    assert "Traceback" not in server.log
