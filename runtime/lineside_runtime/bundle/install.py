"""Install a bundle's folder, completely or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lineside_runtime.bundle import MANIFEST_NAME
from lineside_runtime.errors import InputError
from lineside_runtime.files import fsync_folder


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder that a bundle may not replace.

    Raises:
        InputError: Something stands there, and it is no bundle or ``overwrite`` was not said.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not (out / MANIFEST_NAME).is_file() or out.is_symlink():
        raise InputError(f"{out} is in the way and is no bundle", action="Give another folder with out.")
    if not overwrite:
        raise InputError(
            f"a bundle stands at {out} already",
            action="Name another folder, or replace the bundle: --overwrite, or overwrite=True in Python.",
        )


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """Makes a hidden folder beside ``out`` in which a bundle is built; it is removed afterwards."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    folder, lock = _locked_folder(out)
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(out: Path) -> tuple[Path, int]:
    """Makes the folder with a lock that says to `_remove_leftovers` of others that this process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # another process may have removed it before the lock was held
            return folder, lock
        os.close(lock)


def _remove_leftovers(out: Path) -> None:
    """Removes what killed processes left beside ``out``, and brings back a bundle that one of them moved aside."""
    beside = f".{glob.escape(out.name)}.????????"
    for folder in out.parent.glob(f"{beside}.tmp"):
        with contextlib.suppress(OSError):  # another process builds in it, or has ended meanwhile
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
    for aside in out.parent.glob(f"{beside}.old"):
        if not aside.with_suffix(".tmp").exists() and not out.exists():
            aside.rename(out)


def install_bundle(folder: Path, out: Path) -> None:
    """Renames the whole folder; an old bundle is moved aside first and restored if that fails."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            fsync_folder(path)
    if not out.exists():
        folder.rename(out)
    else:
        aside = folder.with_suffix(".old")
        out.rename(aside)
        try:
            folder.rename(out)
        except OSError:
            aside.rename(out)
            raise
        shutil.rmtree(aside)
    fsync_folder(out.parent)
