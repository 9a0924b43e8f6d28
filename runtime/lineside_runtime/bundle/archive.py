"""Pack a bundle into one ``.lsb`` file, and unpack it, for a USB drive.

An uncompressed zip. Nothing in it is trusted: every path stays inside the folder, every size is bounded before it is
read, and what the manifest doesn't name isn't unpacked. Apart from `bundle` because ``zipfile`` and what it imports
would take a fifth of the time in which a session starts.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

from lineside_runtime.bundle import (
    MANIFEST_MAX_BYTES,
    MANIFEST_NAME,
    Bundle,
    Manifest,
    open_bundle,
    parse_manifest,
)
from lineside_runtime.errors import BundleFormatError, DiskFullError, InputError, InputNotFoundError
from lineside_runtime.files import fsync_folder, is_disk_full, write_atomic

SIGNED_PREFIX = "tuf/"
"""Begins the names of what an exported archive carries beside the bundle: signed metadata and the desired state."""


def pack_archive(bundle: Bundle, path: Path) -> None:
    """Writes the bundle as one uncompressed zip with fixed times, so that equal bundles give equal archives.

    Raises:
        DiskFullError: There is no room; ``path`` is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for relative in (MANIFEST_NAME, *sorted(bundle.manifest.files)):
                    info = zipfile.ZipInfo(relative, date_time=(1980, 1, 1, 0, 0, 0))
                    archive.writestr(info, (bundle.path / relative).read_bytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(path=str(path), needed_bytes=bundle.manifest.size_bytes) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def unpack_archive(archive_path: Path, folder: Path) -> Bundle:
    """Unpacks a ``.lsb`` file into a new folder and verifies it.

    Args:
        folder: Must not exist; nothing remains of it if the archive is refused.

    Raises:
        InputNotFoundError: There is no such file.
        InputError: ``folder`` exists.
        BundleFormatError: Not a zip, compressed, a path that leaves the folder, or other files than the manifest names.
        BundleIntegrityError: A file differs from the manifest.
        DiskFullError: There is no room.
    """
    if not archive_path.is_file():
        raise InputNotFoundError(f"no bundle at {archive_path}", action="Give a .lsb file.")
    if folder.exists():
        raise InputError(f"{folder} exists", action="Give a folder that does not exist yet.")
    try:
        with zipfile.ZipFile(archive_path) as archive:
            manifest = _manifest_of(archive, archive_path)
            folder.mkdir(parents=True)
            try:
                _unpack_files(archive, manifest, folder)
                return open_bundle(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except _ZIP_ERRORS as error:
        raise BundleFormatError(f"{archive_path} is not a bundle archive: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # zipfile seeks to where a damaged directory points
            raise
        raise BundleFormatError(f"{archive_path} is not a bundle archive: {error}") from error


class TemporaryBundle(Bundle):
    """A bundle of an archive, unpacked into a temporary folder, which is removed when its last holder has let go.

    Raises:
        LinesideError: As `unpack_archive`.
    """

    def __init__(self, archive_path: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lineside-bundle-")
        try:
            opened = unpack_archive(archive_path, Path(self._folder.name) / "bundle")
        except BaseException:
            self._folder.cleanup()
            raise
        super().__init__(opened.path, opened.manifest, opened.digest)
        self._verified = opened._verified
        self._holders = 0
        self._lock = threading.Lock()

    def hold(self) -> Callable[[], None]:
        """Keeps the folder until what is returned is called."""
        with self._lock:
            self._holders += 1
        return self._let_go

    def _let_go(self) -> None:
        with self._lock:
            self._holders -= 1
            last = not self._holders
        if last:
            self._folder.cleanup()


# What zipfile raises for damaged, encrypted or unusual archives.
_ZIP_ERRORS = (zipfile.BadZipFile, KeyError, RuntimeError, EOFError, ValueError, struct.error)


def _manifest_of(archive: zipfile.ZipFile, archive_path: Path) -> Manifest:
    manifest = parse_manifest(_read_bounded(archive, MANIFEST_NAME, MANIFEST_MAX_BYTES))
    names, wanted = archive.namelist(), {MANIFEST_NAME, *manifest.files}
    if len(names) != len(set(names)):
        raise BundleFormatError(f"{archive_path}: a name stands in it twice")
    # What a hub adds for an offline import is read by `lineside agent import` alone.
    own = {name for name in names if not name.startswith(SIGNED_PREFIX)}
    if own != wanted:
        odd = sorted(own ^ wanted)
        raise BundleFormatError(f"{archive_path}: files that are missing or not in the manifest: {odd[:5]}")
    return manifest


def _unpack_files(archive: zipfile.ZipFile, manifest: Manifest, folder: Path) -> None:
    for relative, entry in manifest.files.items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, _read_bounded(archive, relative, entry.size))
    write_atomic(folder / MANIFEST_NAME, _read_bounded(archive, MANIFEST_NAME, MANIFEST_MAX_BYTES))


def _read_bounded(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
        raise BundleFormatError(f"{name} in the archive", expected=f"stored, at most {limit} bytes")
    with archive.open(info) as file:
        return file.read(limit)
