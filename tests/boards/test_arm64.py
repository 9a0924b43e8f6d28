"""T1: the wheels of a board's payload run on its processor's instructions, under qemu's user emulation.

T2: Debian's arm64 kernel and an initramfs of ours start on qemu's board with the Pi 5's core and reach a broker here.
Neither says anything of a board's speed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lineside_boards import profile
from lineside_boards.detect import Board
from tests.agent.inspection.test_variant_selection import two_forms
from tests.boards import arm64, emulator
from tests.peers.programs import find_program

INSTALLED_BYTES_MAX, CARRIED_BYTES_MAX = 300e6, 110e6


@pytest.fixture(scope="module")
def emulated() -> list[str]:
    """How a program of the board's Python is run here."""
    qemu = find_program("qemu-aarch64-static", "qemu-user-static")
    sysroot = arm64.sysroot()
    return [qemu, "-cpu", "cortex-a76", "-L", str(sysroot), str(sysroot / f"usr/bin/python{arm64.PYTHON}")]


def run_there(emulated: list[str], tree: Path, *words: str) -> str:
    """Runs the board's Python with the payload's packages, and returns what it says."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(arm64.site_packages(tree)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [*emulated, *words], capture_output=True, text=True, env=environment, timeout=arm64.TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_payload_runs_on_the_boards_instructions_with_the_same_sums(emulated: list[str]) -> None:
    payload, tree = arm64.agent()
    script = Path(__file__).with_name("on_arm64.py")
    here = json.loads(subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout)
    there = json.loads(run_there(emulated, tree, str(script)))
    assert (there["machine"], there["python"]) == ("aarch64", arm64.PYTHON)
    assert there["jpeg_mean"] == pytest.approx(here["jpeg_mean"], abs=0.1)
    assert there["input_mean"] == pytest.approx(here["input_mean"], abs=0.01), "OpenCV rounds a pixel otherwise"
    for name, sums in here["outputs"].items():
        assert there["outputs"][name] == pytest.approx(sums, rel=0.02), name
    installed = sum(path.lstat().st_size for path in tree.rglob("*"))
    assert installed < INSTALLED_BYTES_MAX
    assert payload.manifest.size_bytes < CARRIED_BYTES_MAX


@pytest.mark.slow
def test_the_optimizers_trial_is_timed_on_the_boards_instructions(emulated: list[str], tmp_path: Path) -> None:
    _, tree = arm64.agent()
    bundle = two_forms(tmp_path / "bundle")
    deep, shallow = json.loads(
        run_there(emulated, tree, "-m", "lineside_agent.inspection.variant_timing", str(bundle.path), "3", "[]", "{}")
    )
    assert (deep["device"], shallow["device"]) == ("ort/cpu:0", "ort/cpu:0")
    assert len(deep["rounds_ms"]) == len(shallow["rounds_ms"]) == 3
    assert min(deep["rounds_ms"]) > min(shallow["rounds_ms"]) > [0]  # 40 layers and one, each undisturbed once


def test_board_of_the_pis_core_boots_and_its_message_arrives(tmp_path: Path) -> None:
    took_s, message = emulator.boot_to_message(tmp_path)
    print(f"power to the message on the host: {took_s:.1f} s")
    compatible, machine, memory_kib, gpio = message.split(";")
    found = Board("qemu", tuple(compatible.split()), machine, memory_bytes=int(memory_kib) * 1024)
    assert [one.name for one in profile.matching(found, ())] == ["qemu-virt"]
    assert gpio == "/dev/gpiochip0", "the PL061 that rejects are signalled on"
