"""The programs of Debian's packages that tests start."""

from __future__ import annotations

import os
import shutil

import pytest


def find_program(name: str, package: str) -> str:
    """Returns a program's path; without it the test is left out, or fails where CI must have it.

    Args:
        name: Of the program.
        package: The package of Debian's that brings it.
    """
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        reason = f"{name} is not installed (Debian package {package}): tests/peers/install.sh peers"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return program
