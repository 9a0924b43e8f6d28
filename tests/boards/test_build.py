from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lineside_boards.errors import ImageError, MissingProgramError
from lineside_boards.image import build
from lineside_boards.image.programs import PACKAGES, run_in_namespaces
from tests.peers import wait_for
from tests.peers.programs import find_program


def test_machine_that_runs_no_such_programs_is_said_before_anything_is_fetched() -> None:
    for program in build.PROGRAMS:
        find_program(program, PACKAGES[program])
    with pytest.raises(ImageError, match=r"runs no arc programs.*binfmt"):  # no emulator of Debian's has that processor
        build.check_host("arc")


@pytest.fixture
def namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    unshare = [find_program("unshare", "util-linux"), "--mount", "--pid", "--fork", "--mount-proc", "true"]
    if subprocess.run(unshare, capture_output=True).returncode:
        pytest.skip("no namespaces here")


@pytest.mark.usefixtures("namespaces")
def test_mounts_of_a_build_are_seen_by_nobody_else_so_that_none_is_left_when_it_is_killed(tmp_path: Path) -> None:
    (folder := tmp_path / "mounted").mkdir()
    mount = f"mount -t tmpfs none {folder} && touch {folder}/inside && ls {folder}"
    try:
        assert run_in_namespaces("sh", "-c", mount) == "inside\n"
        assert (folder.is_mount(), list(folder.iterdir())) == (False, [])
    finally:
        if folder.is_mount():
            subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("namespaces")
def test_what_a_build_runs_ends_with_it_when_it_is_killed(tmp_path: Path) -> None:
    code = (
        f"from {run_in_namespaces.__module__} import *; run_in_namespaces('flock', {str(tmp_path)!r}, 'sleep', '600')"
    )
    build_process = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for(lambda: not _is_free(tmp_path), what="the program runs")
    finally:
        build_process.kill()
        build_process.wait()
    wait_for(lambda: _is_free(tmp_path), what="the program has ended")


def _is_free(folder: Path) -> bool:
    return subprocess.run([find_program("flock", "util-linux"), "--nonblock", folder, "true"]).returncode == 0


def test_program_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingProgramError, match=r"mmdebstrap.*apt install mmdebstrap"):
        build.check_host()
