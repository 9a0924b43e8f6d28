"""The programs of Debian's packages that tests start."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def find_program(name: str, package: str) -> str:
    """Returns a program's path; without it the test is left out, or fails where CI must have it.

    Args:
        name: Of the program.
        package: The package of Debian's that brings it.
    """
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        left_out(f"{name} is not installed (Debian package {package}): tests/peers/install.sh peers")
    return program


def left_out(reason: str) -> NoReturn:
    """Leaves the test out, or fails it where CI must have what it needs.

    Args:
        reason: What is missing, and how to get it.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
