"""What a test leaves open, and whose failure that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ci.test_rerun import GOOD, bare_environment

LEAVES = """\
import socket
import sqlite3

def test_leaves():
    left = [{}]
    left.append(left)  # which only the garbage collector frees

def test_later():
    pass
"""


def test_the_file_that_leaves_something_open_fails_and_no_later_one(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    texts = {
        "a": LEAVES.format('sqlite3.connect(":memory:")'),
        "b": GOOD,
        "c": LEAVES.format("socket.socket()"),
        "d": GOOD,
    }
    for name, text in texts.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rEf"]
    done = subprocess.run(command, cwd=tmp_path, env=bare_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("unclosed") >= 2
    for leaves, good in (("a", "b"), ("c", "d")):
        assert f"ERROR test_{leaves}.py::test_later" in done.stdout and f"test_{good}.py::" not in done.stdout
