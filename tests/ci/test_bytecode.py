"""Bytecode of packages: what environments share, and what they don't."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.ci.bytecode import compile_packages


def bytecode_of(source: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(source)))


def test_an_environment_takes_the_bytecode_of_the_same_file_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package, kept = tmp_path / "package.py", tmp_path / "kept"
    found = []
    for folder in (Path("first"), Path("second"), Path("third")):
        folder.mkdir()
        if folder.name == "third":
            package.unlink()
            package.write_text("value = 2\n")
            os.utime(package, (0, 0))
        elif not package.exists():
            package.write_text("value = 1\n")
        (folder / "package.py").hardlink_to(package)
        (folder / "own.py").write_text("value = 3\n")
        (folder / "tests").mkdir()
        (folder / "tests" / "own.py").write_text("value = 4\n")
        compile_packages(str(folder), kept)
        found.append(bytecode_of(folder / "package.py"))
        assert bytecode_of(folder / "own.py").stat().st_nlink == 1
        assert not bytecode_of(folder / "tests" / "own.py").exists()
    assert found[0].samefile(found[1])
    assert not found[0].samefile(found[2])
    assert found[2].samefile(kept / "__pycache__" / found[2].name)
    assert sorted(each.name for each in kept.rglob("*.*")) == [found[0].name]
