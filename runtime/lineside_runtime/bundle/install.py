"""Install a bundle's folder, completely or not at all."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lineside_runtime.bundle import MANIFEST_NAME
from lineside_runtime.errors import InputError
from lineside_runtime.files import fsync_folder, scratch_folder


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
    with scratch_folder(out) as folder:
        _settle_replacements(out)
        folder.chmod(0o755)
        yield folder


def _settle_replacements(out: Path) -> None:
    """Ends what killed processes began: an old bundle comes back, or is removed where the new one is in place."""
    for aside in out.parent.glob(f".{glob.escape(out.name)}.????????.old"):
        if aside.with_suffix(".tmp").exists():  # a living process is about to rename it
            continue
        if out.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
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
        shutil.rmtree(aside, ignore_errors=True)  # another process may be at it; what stays is removed by the next
    fsync_folder(out.parent)
