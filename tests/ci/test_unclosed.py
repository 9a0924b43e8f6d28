"""What a test leaves open, and whose failure that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("left", ['sqlite3.connect(":memory:")', "socket.socket()"])
def test_the_file_that_leaves_something_open_fails_and_no_later_one(tmp_path: Path, left: str) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "test_a.py").write_text(LEAVES.format(left))
    (tmp_path / "test_b.py").write_text(GOOD)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rEf"]
    done = subprocess.run(command, cwd=tmp_path, env=bare_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "unclosed" in done.stdout
    assert "ERROR test_a.py::test_later" in done.stdout and "test_b.py::" not in done.stdout
