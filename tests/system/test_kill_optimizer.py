"""``kill -9`` of ``lineside optimize`` at every step: no half bundle, and a second run ends with the same files.

The target is a board that isn't here, so that no verdict hangs on how fast this machine is at the moment.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lineside_runtime.bundle import MANIFEST_NAME, open_bundle
from tests.converters import nets
from tests.peers.waiting import wait_for

TARGET = "rpi5"
STEPS = ("clean-*", "ranges-*", "int8-*", ".half-int8-*", "onnx-*")
"""What stands in the work folder when the run is killed, from the first step to the last but one."""


def command(model: Path, work: Path, out: Path) -> list[str]:
    told = ["--target", TARGET, "--work", str(work), "--out", str(out), "--no-memory", "--version", "1", "--json"]
    return [sys.executable, "-m", "lineside", "optimize", str(model), "--level", "1", *told]


def finish(model: Path, work: Path, out: Path) -> tuple[dict[str, Any], str]:
    done = subprocess.run(command(model, work, out), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


def contents(bundle: Path) -> dict[str, str]:
    """Digests of what a run computes: not of what says when and how fast it ran."""
    files = open_bundle(bundle).manifest.files
    told = ("report.json", "report.html", "model_card.md")
    return {name: entry.sha256 for name, entry in files.items() if name not in told}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    path.write_bytes(nets.convnet())
    return path


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(model, folder / "work", folder / "bundle")
    return contents(folder / "bundle")


def test_two_runs_write_the_same_files(model: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    finish(model, tmp_path / "work", tmp_path / "bundle")
    assert contents(tmp_path / "bundle") == undisturbed


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_was_killed_goes_on_to_the_same_files(
    step: str, model: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    work, out = tmp_path / "work", tmp_path / "bundle"
    with subprocess.Popen(command(model, work, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            wait_for(lambda: run.poll() is not None or any(work.glob(step)), 300, what=f"{step} in {work}")
            assert run.poll() is None, "it was done before it could be killed"
        finally:
            run.send_signal(signal.SIGKILL)
    assert not (out / MANIFEST_NAME).exists()
    _, said = finish(model, work, out)
    assert contents(out) == undisturbed
    assert "done by an earlier run" in said or step == ".half-int8-*"
    assert not list(work.glob(".half-*"))


def test_what_a_finished_run_has_made_is_not_made_again(
    model: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    finish(model, work, tmp_path / "first")
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.onnx") if ".scratch-source" not in path.parts}
    finish(model, work, tmp_path / "second")
    after = {path: path.stat().st_mtime_ns for path in work.rglob("*.onnx") if ".scratch-source" not in path.parts}
    assert before == after
    assert contents(tmp_path / "second") == undisturbed


def test_two_runs_do_not_work_in_one_folder(model: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with subprocess.Popen(
        command(model, work, tmp_path / "one"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        try:
            wait_for(lambda: run.poll() is not None or any(work.glob("clean-*")), 300, what="the first run")
            assert run.poll() is None
            other = command(model, work, tmp_path / "two")
            done = subprocess.run(other, capture_output=True, text=True, timeout=300, check=False)
        finally:
            run.send_signal(signal.SIGKILL)
    assert done.returncode != 0
    assert "works there" in done.stderr
