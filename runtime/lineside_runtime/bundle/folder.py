"""Open a bundle's folder, verify its files, and write its manifest."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import msgspec

from lineside_runtime.bundle.manifest import (
    MANIFEST_MAX_BYTES,
    MANIFEST_NAME,
    Manifest,
    ModelEntry,
    describe_bytes,
    parse_manifest,
)
from lineside_runtime.bundle.verification import BundleVerification, verify_file
from lineside_runtime.errors import BundleFormatError, InputNotFoundError


class Bundle:
    """An opened bundle.

    Attributes:
        digest: sha256 of the manifest's bytes, hexadecimal; names the bundle's whole content.
        verification: The comparison of its files while that goes on beside the loading of an engine; else ``None``.
    """

    verification: BundleVerification | None = None

    def __init__(self, path: Path, manifest: Manifest, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest

    def file(self, relative: str) -> Path:
        """Returns the path of a file that the manifest names.

        Raises:
            BundleFormatError: The manifest does not name it.
        """
        if relative not in self.manifest.files:
            raise BundleFormatError(f"{self.path}: the manifest does not name {relative!r}")
        return self.path / relative

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
            verify_file(f"{self.path}/{relative}", entry)


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
        check_named(bundle)
        bundle.verify()
    return bundle


def open_while_loading(path: Path | str) -> Bundle:
    """Opens a bundle folder whose files are compared while an engine is loaded: see `Bundle.verification`.

    Raises:
        InputNotFoundError: As for `open_bundle`.
        BundleFormatError: As for `open_bundle`.
    """
    bundle = open_bundle(path, verify=False)
    check_named(bundle)
    bundle.verification = BundleVerification(bundle.path, bundle.manifest.files)
    return bundle


def check_named(bundle: Bundle) -> None:
    """Refuses a folder that holds more than the manifest names.

    Raises:
        BundleFormatError: It holds a link, a special file, or a file that the manifest does not name.
    """
    unnamed = sorted(set(_files_in(bundle.path)) - bundle.manifest.files.keys())
    if unnamed:
        raise BundleFormatError(
            f"{bundle.path} holds what its manifest does not name: {', '.join(unnamed[:5])}",
            action="Remove these files, or build the bundle again.",
        )


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
