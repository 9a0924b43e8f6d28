from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lineside_boards.errors import ImageError, MissingProgramError
from lineside_boards.image import build
from lineside_boards.image.programs import PACKAGES, run_with_own_mounts
from tests.peers.programs import find_program


def test_machine_that_runs_no_such_programs_is_said_before_anything_is_fetched() -> None:
    for program in build.PROGRAMS:
        find_program(program, PACKAGES[program])
    with pytest.raises(ImageError, match=r"runs no arc programs.*binfmt"):  # no emulator of Debian's has that processor
        build.check_host("arc")


def test_mounts_of_a_build_are_seen_by_nobody_else_so_that_none_is_left_when_it_is_killed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    if subprocess.run([find_program("unshare", "util-linux"), "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    (folder := tmp_path / "mounted").mkdir()
    mount = f"mount -t tmpfs none {folder} && touch {folder}/inside && ls {folder}"
    try:
        assert run_with_own_mounts("sh", "-c", mount) == "inside\n"
        assert (folder.is_mount(), list(folder.iterdir())) == (False, [])
    finally:
        if folder.is_mount():
            subprocess.run(["umount", folder], check=True)


def test_program_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingProgramError, match=r"mmdebstrap.*apt install mmdebstrap"):
        build.check_host()
