"""The public face, as the customer wrote it."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pydoc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import lineside
import lineside_runtime
import lineside_runtime.session

LAZY = pytest.mark.parametrize("module", [lineside, lineside_runtime])


@LAZY
def test_public_names_are_sorted_and_all_there(module: ModuleType) -> None:
    assert module.__all__ == sorted(module.__all__)
    assert dir(module) == module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_every_name_that_is_imported_for_types_is_exported() -> None:
    tree = ast.parse(Path(lineside_runtime.__file__).read_text())
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [alias.name for node in ast.walk(guarded[0]) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == lineside_runtime.__all__


PUBLIC = (
    "lineside",
    "lineside.privacy",
    "lineside.vision",
    "lineside_runtime",
    "lineside_models",
    "lineside_agent",
    "lineside_link",
    "lineside_boards",
    "lineside_converters",
    "lineside_hub",
)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_object_has_a_signature_and_help(module: str) -> None:
    public = importlib.import_module(module)
    for name in getattr(public, "__all__", []):
        # A component lists its public modules, which it need not have imported.
        found = getattr(public, name, None) or importlib.import_module(f"{module}.{name}")
        if callable(found):
            assert inspect.signature(found) is not None
            assert name in pydoc.render_doc(found)


@LAZY
def test_unknown_name_is_an_attribute_error(module: ModuleType) -> None:
    with pytest.raises(AttributeError, match="Sesion"):
        _ = module.Sesion


@LAZY
def test_import_loads_nothing_heavy(module: ModuleType) -> None:
    code = f"import sys, {module.__name__}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "onnxruntime", "torch", "cv2", "msgspec", "paho", "logging"} & set(loaded)


ONLY_WHERE_NEEDED = (
    "lineside_runtime.backends.common.error_texts",
    "lineside_runtime.backends.common.operator_times",
    "lineside_runtime.backends.ort.arena",
    "lineside_runtime.cache.levels",
    "lineside_runtime.files",
    "lineside_runtime.serving.memory_pressure",
    "lineside_runtime.serving.plan_file",
    "lineside_runtime.serving.replicas",
    "lineside_runtime.serving.standby",
    "lineside_runtime.serving.submit",
    "packaging",
)
"""What a session that serves one model on one device does without."""

PLAIN_SESSION = """
import sys, numpy
from lineside import Config, Session

with Session("surface-12", Config(threads=1)) as session:
    session.predict(numpy.zeros((1, 1, 224, 224), numpy.float32))
    print(*sys.modules)
"""


def test_plain_session_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", PLAIN_SESSION]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    assert "lineside_runtime.session" in printed
    assert not set(ONLY_WHERE_NEEDED) & set(printed)


@pytest.mark.usefixtures("short_warm_up")
def test_session_benchmark_and_optimizer_take_the_name_of_a_shipped_bundle() -> None:
    with lineside.Session("surface-12", lineside.Config(threads=1)) as session:
        session.reload("surface-12")
        assert session.manifest.name == "surface-12"
    assert isinstance(session, lineside_runtime.session.Session)
    report = lineside.Benchmark("surface-12", rounds=1, alone_runs=0, against=["surface-12"]).run()
    assert [result.bundle.partition("@")[0] for result in report.results] == ["surface-12", "surface-12"]
    makers: tuple[Callable[[str], object], ...] = (lineside.Session, lineside.Benchmark, lineside.Optimizer)
    for make in makers:
        with pytest.raises(lineside.LinesideError, match=r"Did you mean surface-12\?"):
            make("surface-13")


def test_config_takes_the_customers_arguments() -> None:
    config = lineside.Config(gpu_ratio=0.6, npu_threshold=0.2, fallback_strategy="sequential")
    assert (config.gpu_ratio, config.npu_threshold, config.fallback_strategy) == (0.6, 0.2, "sequential")


def test_wrong_config_is_an_error_with_its_code() -> None:
    with pytest.raises(lineside.LinesideError) as caught:
        lineside.Config(gpu_ratio=1.5)
    assert caught.value.code == 2001
    assert "gpu_ratio" in str(caught.value)


def test_codes_are_given_once() -> None:
    from lineside_boards import errors as of_boards
    from lineside_runtime import errors

    found = [
        kind
        for module in (errors, of_boards)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == module.__name__
    ]
    classes = [kind for kind in found if issubclass(kind, lineside.LinesideError)]
    assert classes == found
    codes = [kind.code for kind in classes]
    assert len(set(codes)) == len(codes)
    assert lineside.LinesideError in classes
    assert of_boards.BoardError in classes
    assert errors.OutOfDeviceMemoryError.code == 1001
    assert errors.BadInputFormatError.code == 2003
