"""The reruns of CI, on small pytest projects that fail in each way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ONCE = """\
from pathlib import Path

def first():
    seen = Path(__file__).with_suffix(".seen")
    return not seen.exists() and seen.touch() is None
"""
GOOD = "def test_good():\n    pass\n"
FLAKY = ONCE + "\ndef test_flaky():\n    print('a line of output')\n    assert not first(), 'only this time'\n"
BROKEN = "def test_broken():\n    assert 1 == 2\n"
WORKERS = ("-p", "xdist", "--numprocesses", "2", "--dist", "loadfile")


def bare_environment() -> dict[str, str]:
    """Returns this process's environment for another pytest: without CI's settings, and without installed plug-ins."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "LINESIDE_"))}
    python_path = os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")])
    return kept | {"PYTHONPATH": python_path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


class Project:
    def __init__(self, folder: Path, **files: str) -> None:
        self.folder = folder
        (folder / "pytest.ini").write_text("[pytest]\n")
        for name, text in files.items():
            (folder / f"test_{name}.py").write_text(text)

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.ci.rerun", "-p", "no:cacheprovider", *options]
        return subprocess.run(
            command, cwd=self.folder, env=bare_environment(), capture_output=True, text=True, check=False
        )

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "test-report" / "flaky.json").read_text())
        return found

    def names(self, kind: str) -> list[str]:
        return [failure["name"] for failure in self.report[kind]]


def closing_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.strip().splitlines()[-1].strip("= ")


def test_nothing_fails_and_a_run_without_tests_is_red(tmp_path: Path) -> None:
    project = Project(tmp_path, good=GOOD)
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert closing_line(done).startswith("1 passed in")
    assert (project.names("flaky"), project.names("failed"), project.report["counts"]["passed"]) == ([], [], 1)
    assert "None." in (tmp_path / "test-report" / "flaky.md").read_text()
    for options, status in ((("--no-such-option",), 4), (("-k", "nothing"), 5)):
        assert project.run(*options).returncode == status


def test_what_passes_alone_is_flaky_and_green(tmp_path: Path) -> None:
    project = Project(tmp_path, good=GOOD, flaky=FLAKY)
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert closing_line(done).startswith("1 passed, 1 flaky in")
    assert (project.names("flaky"), project.names("failed")) == (["test_flaky.py::test_flaky"], [])
    (failure,) = project.report["flaky"]
    assert "only this time" in failure["first"] and "a line of output" in failure["first"]
    assert "1 passed" in failure["second"]
    told = done.stdout.partition(" flaky =")[2]
    assert "only this time" in told and "1 passed" in told
    page = (tmp_path / "test-report" / "flaky.md").read_text()
    assert "test_flaky.py::test_flaky: In the run" in page and "only this time" in page


def test_what_fails_twice_or_at_a_fixtures_end_or_is_skipped_alone_is_red_beside_a_flaky_test(tmp_path: Path) -> None:
    left = "import pytest\n\n@pytest.fixture\ndef left():\n    yield\n    assert False, 'at the end'\n\n"
    left += "def test_left(left):\n    pass\n"
    skipped = f"{ONCE}import pytest\n\ndef test_skipped():\n"
    skipped += "    if not first():\n        pytest.skip('not now')\n    assert 0\n"
    project = Project(tmp_path, good=GOOD, flaky=FLAKY, broken=BROKEN, left=left, skipped=skipped)
    done = project.run(*WORKERS)
    assert done.returncode == 1
    assert closing_line(done).startswith("3 failed, 2 passed, 1 flaky in")
    assert project.names("flaky") == ["test_flaky.py::test_flaky"]
    assert sorted(project.names("failed")) == [f"test_{name}.py::test_{name}" for name in ("broken", "left", "skipped")]


@pytest.mark.parametrize("workers", [(), WORKERS])
def test_a_file_that_cannot_be_collected_is_red_and_keeps_no_other_test_from_running(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    project = Project(tmp_path, good=GOOD, wrong="import nothing_of_this_name\n")
    done = project.run(*workers)
    assert done.returncode == 1, done.stdout
    assert closing_line(done).startswith("1 failed, 1 passed in")
    assert project.names("failed") == ["test_wrong.py"]


def test_a_file_that_can_be_collected_alone_is_run_alone_whole(tmp_path: Path) -> None:
    once = ONCE + "assert not first()\n"
    both = Project(tmp_path, good=GOOD, once=once + GOOD)
    assert both.run().returncode == 0
    assert both.names("flaky") == ["test_once.py"]
    (tmp_path / "test_once.seen").unlink()
    (tmp_path / "test_once.py").write_text(once + BROKEN)
    assert both.run().returncode == 1


@pytest.mark.parametrize(("condition", "status"), [("True", 1), ("first()", 0)])
def test_a_worker_that_crashes_is_red_unless_its_test_passes_alone(tmp_path: Path, condition: str, status: int) -> None:
    crash = f"{ONCE}import os\n\ndef test_crash():\n    if {condition}:\n        os.abort()\n"
    project = Project(tmp_path, good=GOOD, crash=crash)
    done = project.run(*WORKERS)
    assert done.returncode == status, done.stdout
    assert project.names("failed" if status else "flaky") == ["test_crash.py::test_crash"]
    assert "crashed while running" in done.stdout


def test_many_failures_are_not_run_again(tmp_path: Path) -> None:
    project = Project(
        tmp_path, many="import pytest\n\n@pytest.mark.parametrize('n', range(21))\ndef test_n(n):\n    assert 0\n"
    )
    done = project.run()
    assert done.returncode == 1
    assert "running again" not in done.stdout
    assert len(project.names("failed")) == 21
