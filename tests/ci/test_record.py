"""`.ci/run` as a program: its steps are a Makefile of the test, everything else is real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.figures.components.tests import SHOWN, ci_runs
from benchmarks.figures.results import Value
from tests.ci.test_rerun import BROKEN, FLAKY, GOOD, ROOT, bare_environment
from tests.peers.waiting import wait_for

MAKEFILE = """\
VENV := .venv
demo check:
\t@test ! -e no-$@
\t@touch $@-in-$(VENV)
test-ci:
	@echo $(TMPDIR) >temporary; test -w $(TMPDIR)
\t@$(PYTHON) -m tests.ci.rerun test_it.py
"""


class Clone:
    def __init__(self, folder: Path, test: str) -> None:
        self.folder, self.table = folder / "clone", folder / "runs.json"
        (folder / "log").touch()
        self.beside = f"tail -f {folder / 'log'}"  # does nothing until it is ended
        (self.folder / ".venv" / "bin").mkdir(parents=True)
        (self.folder / ".ci").mkdir()
        shutil.copy(ROOT / ".ci" / "run", self.folder / ".ci" / "run")
        (self.folder / "Makefile").write_text(MAKEFILE)
        (self.folder / "pytest.ini").write_text("[pytest]\n")
        (self.folder / "test_it.py").write_text(test)
        python = self.folder / ".venv" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')  # a symbolic link would lose its packages
        python.chmod(0o755)
        (self.folder / ".venv" / ".dev").touch()

    def run(self, *, record: bool = True) -> subprocess.CompletedProcess[str]:
        environment = bare_environment() | {"PYTHON": sys.executable, "LINESIDE_CI_BESIDE": self.beside}
        if record:
            environment["LINESIDE_CI_RECORD"] = str(self.table)
        command = ["bash", str(self.folder / ".ci" / "run")]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    @property
    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.table.read_text())["runs"]
        return found


def test_a_flaky_test_is_green_and_a_broken_one_red(tmp_path: Path) -> None:
    clone = Clone(tmp_path, FLAKY + GOOD)
    done = clone.run()
    assert done.returncode == 0, done.stdout + done.stderr
    used, memory = Path((clone.folder / "temporary").read_text().strip()), Path("/dev/shm")  # where it has room
    if memory.is_dir() and shutil.disk_usage(memory).free > 2 * 6_000_000 * 1024:
        assert used.parent == memory
    assert used.parent != memory or not used.exists()
    (run,) = clone.runs
    assert (run["green"], run["beside"], run["provenance"]["command"]) == (True, clone.beside, "bash .ci/run")
    assert run["provenance"]["seconds"] == run["seconds"]["all"]
    assert (run["flaky"], run["failed"], run["counts"]["passed"]) == (["test_it.py::test_flaky"], [], 1)
    assert set(run["seconds"]) == {"demo", "check", "test-ci", "all"}
    assert run["seconds"]["demo"] + run["seconds"]["test-ci"] <= run["seconds"]["all"]
    (clone.folder / "test_it.py").write_text(BROKEN)
    assert clone.run().returncode != 0
    assert [run["flaky"] for run in clone.runs] == [["test_it.py::test_flaky"], []]
    assert (clone.runs[1]["green"], clone.runs[1]["failed"]) == (False, ["test_it.py::test_broken"])
    many = json.loads(clone.table.read_text())
    rendered = ci_runs(Value(many, "runs.json")).splitlines()
    assert rendered[2].endswith("| 0 | 1: `test_it.py::test_flaky` |")
    assert rendered[3].endswith("| 1: `test_it.py::test_broken` | 0 |")
    many["runs"] = many["runs"] * (SHOWN // 2 + 1)
    rendered = ci_runs(Value(many, "runs.json")).splitlines()
    assert len(rendered) == 2 + SHOWN + 2
    assert rendered[-1].startswith("2 earlier runs, ") and rendered[-1].endswith(": 1 green, 1 red, flaky tests: 1.")


def test_a_clone_gets_its_development_environment_beside_the_demo_and_ends_what_runs_beside(tmp_path: Path) -> None:
    clone = Clone(tmp_path, GOOD)
    looked = f"pgrep -f '^{clone.beside}'"
    look = f"demo: look\nlook:\n\t@until {looked} >{tmp_path / 'seen'}; do sleep 0.1; done\n"
    (clone.folder / ".venv" / ".dev").unlink()
    (clone.folder / ".venv" / ".base").touch()
    python = clone.folder / ".venv" / "bin" / "python"
    python.write_text(python.read_text().replace("exec", '[ "$1" = -c ] && exit 1\nexec'))  # it has no torch
    made = "peers:\n.venv-dev/.dev:\n\tcp -r .venv .venv-dev\n\ttouch $@\n"
    (clone.folder / "Makefile").write_text(f"{MAKEFILE}{look}check: $(VENV)/.dev\n{made}.venv/.dev:\n\tfalse\n")
    done = clone.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert clone.runs[0]["green"]
    assert sorted(each.name for each in clone.folder.glob("*-in-*")) == ["check-in-.venv-dev", "demo-in-.venv"]
    assert (tmp_path / "seen").read_text().strip()
    wait_for(lambda: subprocess.run(looked, shell=True, capture_output=True, check=False).returncode == 1)


def test_a_command_beside_it_that_is_not_there_is_said(tmp_path: Path) -> None:
    clone = Clone(tmp_path, GOOD)
    clone.beside = "no-such-program --cpu 2"
    done = clone.run(record=False)
    assert done.returncode != 0
    assert "no no-such-program here" in done.stderr


def test_a_demo_that_fails_is_red_and_the_tests_are_not_begun(tmp_path: Path) -> None:
    clone = Clone(tmp_path, GOOD)
    (clone.folder / "no-demo").touch()
    (clone.folder / "test-report").mkdir()
    (clone.folder / "test-report" / "flaky.json").write_text("of an earlier run")
    assert clone.run().returncode != 0
    (run,) = clone.runs
    assert (run["green"], run["counts"]) == (False, {})
    assert "test-ci" not in run["seconds"]
    assert clone.run(record=False).returncode != 0
    assert len(clone.runs) == 1
    looked = ["pgrep", "-f", f"^{clone.beside}"]
    wait_for(lambda: subprocess.run(looked, capture_output=True, check=False).returncode == 1)


def test_a_check_that_fails_is_red_and_the_tests_beside_it_are_counted(tmp_path: Path) -> None:
    clone = Clone(tmp_path, GOOD)
    (clone.folder / "Makefile").write_text(
        MAKEFILE + "check: told\ntold:\n\t@echo found in the check; nice >niceness\n"
    )
    (clone.folder / "no-check").touch()
    done = clone.run()
    assert done.returncode != 0
    (run,) = clone.runs
    assert (run["green"], run["failed"], run["counts"]["passed"]) == (False, [], 1)
    assert "found in the check" in done.stdout
    assert done.stderr.splitlines()[-1] == "make check has failed"
    assert int((clone.folder / "niceness").read_text()) == os.nice(0) + 3


def test_an_environment_that_cannot_be_made_is_said_and_no_test_is_begun(tmp_path: Path) -> None:
    clone = Clone(tmp_path, GOOD)
    (clone.folder / ".venv" / ".dev").unlink()
    (clone.folder / ".venv" / ".base").touch()
    python = clone.folder / ".venv" / "bin" / "python"
    python.write_text(python.read_text().replace("exec", '[ "$1" = -c ] && exit 1\nexec'))
    made = ".venv-dev/.dev:\n\t@echo no such package; false\npeers:\n"
    (clone.folder / "Makefile").write_text(f"{MAKEFILE}check: $(VENV)/.dev\n{made}")
    done = clone.run(record=False)
    assert done.returncode != 0
    assert "no such package" in done.stdout
    assert not (clone.folder / "test-report" / "flaky.json").exists()
