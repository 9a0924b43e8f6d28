from __future__ import annotations

import pytest

from lineside_boards.errors import ImageError, MissingProgramError
from lineside_boards.image import build
from lineside_boards.image.programs import PACKAGES
from tests.peers.programs import find_program


def test_machine_that_runs_no_such_programs_is_said_before_anything_is_fetched() -> None:
    for program in build.PROGRAMS:
        find_program(program, PACKAGES[program])
    with pytest.raises(ImageError, match=r"runs no arc programs.*binfmt"):  # no emulator of Debian's has that processor
        build.check_host("arc")


def test_program_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingProgramError, match=r"mmdebstrap.*apt install mmdebstrap"):
        build.check_host()
