"""The log of the system tests tells what pytest did, and its page shows the log."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.system.log import PAGE, ROOT, Entry, NotRun, read_junit, read_log, render, replace_block, shown, write_log

FILES = ["test_all.py", "test_never.py"]
TESTS = """
import pytest

def test_good():
    pass

def test_bad():
    assert False

def test_left():
    pytest.skip("no camera | here")

@pytest.fixture
def broken():
    raise OSError

def test_error(broken):
    pass
"""


def entry(folder: Path) -> Entry:
    (folder / "test_all.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        "/dev/null",
        "-p",
        "no:cacheprovider",
        "--junitxml=junit.xml",
    ]
    done = subprocess.run([*command, "test_all.py"], cwd=folder, capture_output=True)
    passed, failed, skipped = read_junit(folder / "junit.xml")
    return Entry(
        date="2026-11-27 18:00",
        commit="0123456789abcdef",
        dirty=False,
        machine="a processor, 2 cores",
        load=0.5,
        options={"KILLS": "3"},
        seconds=12.3,
        exit_code=done.returncode,
        passed=passed,
        failed=failed,
        skipped=skipped,
        tail=("1 passed",),
    )


def test_page_names_each_failure_and_each_reason(tmp_path: Path) -> None:
    made = entry(tmp_path)
    assert (made.passed, made.failed) == (1, ("test_bad", "test_error"))
    assert made.skipped == (NotRun(test="test_left", reason="no camera | here"),)
    assert not made.is_green
    write_log({"test_all.py": made}, tmp_path / "log.json")
    assert read_log(tmp_path / "log.json") == {"test_all.py": made}
    table = render({"test_all.py": made}, FILES)
    assert (
        "| `test_all.py` | 1 | **test_bad**<br>**test_error** | 1: no camera \\| here | 12 | 2026-11-27 18:00 |"
        in table
    )
    assert "0123456789 | a processor, 2 cores, 0.5, KILLS=3 |" in table
    assert "| `test_never.py` |  | **no run** |" in table
    assert "2 files: 0 without a failure" in table


def test_page_in_docs_is_the_log_in_docs() -> None:
    page = PAGE.read_text()
    files = sorted(path.name for path in (ROOT / "tests/system").glob("test_*.py"))
    assert replace_block(page, render(read_log(), files)) == page


def test_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no markers"):
        replace_block("# Tests\n", "")


def test_log_has_no_folders_of_the_machine_and_no_package_index() -> None:
    line = f"\x1b[33m{ROOT}/tests\x1b[0m: {tempfile.gettempdir()}/pytest-0 https://user:word@index.example/simple http://127.0.0.1:80/"
    assert shown(line) == "./tests: TMP/pytest-0 URL http://127.0.0.1:80/"
