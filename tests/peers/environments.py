"""Virtual environments of their own, for vendors' packages that can't live beside ours.

Made once and kept in the repository's folder (``.venv-NAME``, which git ignores) until what is asked for changes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from tests.peers.programs import left_out

ROOT = Path(__file__).parents[2]

PACKAGES = tuple(ROOT / name for name in ("runtime", "models", "."))
"""Ours, which the environment finds by a ``.pth`` file, so that the code under test is the one in this tree."""

OURS_NEED = ("msgspec>=0.19,<1", "packaging>=23", "xxhash>=3.4")


def environment(name: str, *steps: Sequence[str], sees_ours: bool = False) -> Path:
    """Returns the Python of an environment.

    Args:
        name: Part of the folder's name.
        steps: What each ``pip install`` is given, in this order.
        sees_ours: Whether it also has what this environment has, which makes it in seconds.

    Where pip can't install a package, the test is skipped with pip's last line.
    """
    folder = ROOT / f".venv-{name}"
    python = folder / "bin/python"
    wanted = [list(step) for step in (steps if sees_ours else (*steps, OURS_NEED))]
    stamp, mark = folder / ".made", hashlib.sha256(repr((wanted, sys.version_info[:2])).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == mark:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", *(["--without-pip"] if sees_ours else []), folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    if sees_ours:
        (site / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    for step in wanted:
        pip = [sys.executable, "-m", "pip", "--python", str(python)] if sees_ours else [str(python), "-m", "pip"]
        command = [*pip, "--disable-pip-version-check", "install", "--quiet", "--no-compile", *step]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
            left_out(f"no environment .venv-{name}: {said[-1]}")
    (site / "lineside.pth").write_text("".join(f"{package.resolve()}\n" for package in PACKAGES))
    stamp.write_text(mark)
    return python
