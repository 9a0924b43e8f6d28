"""The public names of the component."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lineside_runtime


def test_public_names_are_sorted_and_all_there() -> None:
    assert lineside_runtime.__all__ == sorted(lineside_runtime.__all__)
    assert dir(lineside_runtime) == lineside_runtime.__all__
    for name in lineside_runtime.__all__:
        assert getattr(lineside_runtime, name).__name__ == name


def test_every_name_that_is_imported_for_types_is_exported() -> None:
    tree = ast.parse(Path(lineside_runtime.__file__).read_text())
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [alias.name for node in ast.walk(guarded[0]) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == lineside_runtime.__all__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Sesion"):
        _ = lineside_runtime.Sesion


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, lineside_runtime; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in loaded for name in ("numpy", "onnxruntime", "msgspec", "logging"))
