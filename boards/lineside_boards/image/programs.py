"""Programs of Debian packages that no Python package replaces; their output becomes the error's message."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lineside_boards.errors import ImageError, MissingProgramError

PACKAGES = {
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mmdebstrap": "mmdebstrap",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "arch-test": "arch-test",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}
"""Program to the Debian package that brings it."""


def find(name: str) -> str:
    """Returns a program's path.

    Raises:
        MissingProgramError: It is not installed.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise MissingProgramError(
            f"the program {name} is not there", action=f"Install it: apt install {PACKAGES.get(name, name)}."
        )
    return path


def run(name: str, *arguments: str | Path, data: bytes | None = None, codes: Sequence[int] = (0,)) -> str:
    """Runs a program and returns what it printed.

    Args:
        codes: Exit codes that mean success.

    Raises:
        MissingProgramError: It is not installed.
        ImageError: It ended with another code; the end of its output is in the message.
    """
    command = [find(name), *map(str, arguments)]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, input=data, env=environment)
    out = done.stdout.decode(errors="replace")
    if done.returncode not in codes:
        words = (done.stderr.decode(errors="replace") or out).strip().splitlines()
        raise ImageError(f"{name} ended with {done.returncode}: {' | '.join(words[-3:])}")
    return out


def run_in_namespaces(name: str, *arguments: str | Path) -> str:
    """As `run`, with mounts and processes of its own where this machine allows it.

    Nobody else sees the mounts, and whatever the program has started ends with this process, also where that is killed.
    """
    unshare = (find("unshare"), "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        return run(name, *arguments)  # not root, and mmdebstrap makes a namespace itself; or a container
    return run("setpriv", "--pdeathsig", "KILL", *unshare, find(name), *arguments)
