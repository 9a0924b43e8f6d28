"""Open a bundle's folder, verify its files, and write its manifest."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_runtime.bundle.manifest import (
    CHUNK_BYTES,
    MANIFEST_MAX_BYTES,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    ModelEntry,
    Variant,
    describe_bytes,
    parse_manifest,
)
from lineside_runtime.errors import BundleFormatError, BundleIntegrityError, InputNotFoundError


class Bundle:
    """An opened bundle.

    Attributes:
        digest: sha256 of the manifest's bytes, hexadecimal; names the bundle's whole content.
    """

    def __init__(self, path: Path, manifest: Manifest, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        self._verified: dict[str, _FileState] = {}

    def file(self, relative: str) -> Path:
        """Returns the path of a file that the manifest names.

        Raises:
            BundleFormatError: The manifest does not name it.
        """
        if relative not in self.manifest.files:
            raise BundleFormatError(f"{self.path}: the manifest does not name {relative!r}")
        return self.path / relative

    def verified_model(self, variant: Variant) -> Path:
        """Returns the path of a variant's model, which may be loaded long after the bundle was opened.

        A file that has changed since `verify` is verified again; one that was never verified is not read.

        Raises:
            BundleFormatError: The manifest does not name it.
            BundleIntegrityError: It was replaced by another one, or is missing.
        """
        for relative in variant.files:
            verified = self._verified.get(relative)
            if verified is not None and verified != _state_of(f"{self.path}/{relative}"):
                self._verify(relative, self.manifest.files[relative])
        return self.file(variant.file)

    def part(self, manifest: Manifest, digest: str | None = None) -> Bundle:
        """Returns a bundle of the same files with another manifest, such as that of one stage or of some variants.

        Args:
            digest: Names the part; ``None`` for the same as the whole, whose answers it then gives.
        """
        part = Bundle(self.path, manifest, digest or self.digest)
        part._verified = self._verified
        return part

    def hold(self) -> Callable[[], None] | None:
        """Keeps the files until what is returned is called; ``None`` where they stay anyway."""
        return None

    def open_model(self, entry: ModelEntry) -> Bundle:
        """Opens one of its models as a bundle, without reading the model's files.

        Raises:
            BundleFormatError: The model's manifest breaks the format, or is that of several models.
        """
        opened = open_bundle(self.path / entry.path, verify=False)
        if opened.manifest.several:
            raise BundleFormatError(
                f"the model {entry.name!r} of {self.manifest.identity} is a bundle of several models itself",
                expected="one model",
                action="List its models in the outer bundle.",
            )
        return opened

    def verify(self) -> None:
        """Reads every file and compares it with the manifest.

        Raises:
            BundleIntegrityError: A file is missing, or its size or hash is another.
        """
        for relative, entry in self.manifest.files.items():
            self._verify(relative, entry)

    def _verify(self, relative: str, entry: FileEntry) -> None:
        path = f"{self.path}/{relative}"
        state = _state_of(path)
        verify_file(path, entry)
        if state is not None:
            self._verified[relative] = state


_FileState = tuple[int, int, int, int]


def _state_of(path: str) -> _FileState | None:
    """Returns what tells a changed or replaced file; ``None`` if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  see `_files_in`
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def verify_file(path: Path | str, entry: FileEntry) -> None:
    """Compares a file with its entry, reading at most one byte more than the entry's size.

    Raises:
        BundleIntegrityError: It is missing, or its size or hash is another.
    """
    digest = hashlib.sha256()
    try:
        size = os.stat(path).st_size  # noqa: PTH116  see `_files_in`
        if size == entry.size:
            block = memoryview(bytearray(CHUNK_BYTES * 2))  # one buffer that stays in the processor's cache
            with io.FileIO(path) as file:
                while count := file.readinto(block):
                    digest.update(block[:count])
    except (FileNotFoundError, IsADirectoryError) as error:
        raise BundleIntegrityError(f"{path} is missing", expected=f"{entry.size} bytes") from error
    if size != entry.size:
        raise BundleIntegrityError(f"{path} has another size", expected=f"{entry.size} bytes", actual=f"{size} bytes")
    if digest.hexdigest() != entry.sha256:
        raise BundleIntegrityError(
            f"{path} has another hash", expected=f"sha256 {entry.sha256}", actual=digest.hexdigest()
        )


def open_bundle(path: Path | str, *, verify: bool = True) -> Bundle:
    """Opens a bundle folder.

    Args:
        path: The folder. For a ``.lsb`` archive, `archive.unpack_archive` comes first.
        verify: Whether every file is read and compared with the manifest, and anything else in the folder refused.

    Raises:
        InputNotFoundError: There is no such folder.
        BundleFormatError: The manifest is missing or breaks the format, or the folder holds a link, a special file,
            or a file that the manifest does not name.
        BundleIntegrityError: A file is missing or differs.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputNotFoundError(f"{folder} is not a folder", action="Give the folder that holds manifest.json.")
    manifest_path = folder / MANIFEST_NAME
    if manifest_path.is_symlink():
        raise BundleFormatError(f"{manifest_path} is a link", action="Copy the bundle with its files.")
    if not manifest_path.is_file():
        raise BundleFormatError(f"{folder} has no {MANIFEST_NAME}", action="Give the folder of a bundle.")
    with manifest_path.open("rb") as file:
        data = file.read(MANIFEST_MAX_BYTES + 1)
    bundle = Bundle(folder, parse_manifest(data), hashlib.sha256(data).hexdigest())
    if verify:
        unnamed = sorted(set(_files_in(folder)) - bundle.manifest.files.keys())
        if unnamed:
            raise BundleFormatError(
                f"{folder} holds what its manifest does not name: {', '.join(unnamed[:5])}",
                action="Remove these files, or build the bundle again.",
            )
        bundle.verify()
    return bundle


def _files_in(folder: Path) -> list[str]:
    """Returns the paths of all files below ``folder`` but the manifest, sorted; nothing may be a link or special.

    Paths are texts, as a `Path` keeps its parts in a table of Python's that grows by each new one and never shrinks:
    1 MB after 150 loads of a bundle.
    """
    found: set[str] = set()
    places = [""]
    while places:
        place = places.pop()
        with os.scandir(f"{folder}/{place}") as entries:
            for entry in entries:
                relative = place + entry.name
                if entry.is_symlink():
                    raise BundleFormatError(
                        f"{relative} in {folder} is a link", action="Copy the bundle with its files."
                    )
                if entry.is_dir():
                    places.append(f"{relative}/")
                elif entry.is_file():
                    found.add(relative)
                else:
                    raise BundleFormatError(f"{relative} in {folder} is neither a file nor a folder")
    return sorted(found - {MANIFEST_NAME})


def time_now() -> str:
    """Returns the time in UTC to the second, as manifests and reports write it: ISO 8601 with ``Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_manifest(folder: Path, manifest: Manifest) -> Bundle:
    """Describes every file in ``folder`` and writes the manifest last.

    Args:
        folder: Holds the bundle's other files.
        manifest: Its ``files`` are replaced by what is found.

    Returns:
        The bundle as it would be opened.

    Raises:
        BundleFormatError: The folder holds something that may not be in a bundle, or lacks a named file.
    """
    from lineside_runtime.files import write_atomic  # only who makes bundles pays for it

    files = {relative: describe_bytes((folder / relative).read_bytes()) for relative in _files_in(folder)}
    data = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(manifest, files=files)), indent=1)
    checked = parse_manifest(data)
    write_atomic(folder / MANIFEST_NAME, data)
    return Bundle(folder, checked, hashlib.sha256(data).hexdigest())
