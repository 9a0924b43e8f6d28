"""Virtual environments of their own, for vendors' packages that can't live beside ours.

Made once and kept in the repository's folder (``.venv-NAME``, which git ignores) until what is asked for changes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

PACKAGES = tuple(ROOT / name for name in ("runtime", "models", "."))
"""Ours, which the environment finds by a ``.pth`` file, so that the code under test is the one in this tree."""

OURS_NEED = ("msgspec>=0.19,<1", "packaging>=23", "xxhash>=3.4")


def environment(name: str, *steps: Sequence[str]) -> Path:
    """Returns the Python of an environment.

    Args:
        name: Part of the folder's name.
        steps: What each ``pip install`` is given, in this order.

    Raises:
        subprocess.CalledProcessError: A package can't be installed; pip's words are on stderr.
    """
    folder = ROOT / f".venv-{name}"
    python = folder / "bin/python"
    wanted = [list(step) for step in (*steps, OURS_NEED)]
    stamp, mark = folder / ".made", hashlib.sha256(repr((wanted, sys.version_info[:2])).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == mark:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for step in wanted:
        subprocess.run(
            [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *step],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "lineside.pth").write_text("".join(f"{package.resolve()}\n" for package in PACKAGES))
    stamp.write_text(mark)
    return python
