"""The two slots of a bundle on disk, and the link to the active one.

::

    <folder>/
    ├── current -> slots/a/bundle     flipped by a rename, so that it never points nowhere
    └── slots/
        ├── a/  wanted                digest that is being brought in; a part of it may be there
        │       bundle/               manifest.json and what it names
        │       digest                written last: the slot is whole
        └── b/  …

A slot is unmade in the opposite order in which it is made: the digest goes first. Each step done twice changes nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lineside_agent.deployment.machine import Slot
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import BundleIntegrityError, DiskFullError, InputNotFoundError
from lineside_runtime.files import fsync_folder, is_disk_full, write_atomic

_WANTED, _DIGEST, _BUNDLE = "wanted", "digest", "bundle"


class Slots:
    """The slots under one state folder."""

    def __init__(self, folder: Path, factory: Path | None = None) -> None:
        self._folder = folder
        self._factory = factory
        for slot in ("a", "b"):
            (folder / "slots" / slot).mkdir(parents=True, exist_ok=True)

    @property
    def has_factory(self) -> bool:
        """Whether the configuration names a bundle."""
        return self._factory is not None

    def bundle_path(self, slot: Slot) -> Path:
        """Returns the folder that holds the slot's manifest.

        Raises:
            InputNotFoundError: The factory slot is meant and the configuration names no bundle.
        """
        if slot != "factory":
            return self._place(slot) / _BUNDLE
        if self._factory is None:
            raise InputNotFoundError("no factory bundle", action="Name a folder under `bundle` in agent.toml.")
        return self._factory

    def _place(self, slot: Slot) -> Path:
        return self._folder / "slots" / slot

    def begin(self, slot: Slot, sha256: str) -> Path:
        """Empties a slot, but for a part of the same bundle; returns the bundle's folder.

        Raises:
            DiskFullError: There is no room.
        """
        place = self._place(slot)
        (place / _DIGEST).unlink(missing_ok=True)
        fsync_folder(place)
        if _read(place / _WANTED) != sha256:
            shutil.rmtree(place / _BUNDLE, ignore_errors=True)
            write_atomic(place / _WANTED, sha256.encode())
        bundle = place / _BUNDLE
        try:
            bundle.mkdir(exist_ok=True)
        except OSError as error:
            if is_disk_full(error):
                raise DiskFullError(path=str(bundle)) from error
            raise
        return bundle

    def finish(self, slot: Slot, sha256: str) -> None:
        """Reads everything in a slot, and writes its digest if it is whole.

        Raises:
            BundleFormatError: The manifest is missing or breaks the format.
            BundleIntegrityError: A file is missing or differs, or it is another bundle.
            DiskFullError: There is no room.
        """
        self._open(slot, sha256)
        write_atomic(self._place(slot) / _DIGEST, sha256.encode())

    def open(self, slot: Slot) -> Bundle:
        """Opens and verifies the bundle of a slot.

        Raises:
            InputNotFoundError: Nothing is there.
            BundleFormatError: The manifest is missing or breaks the format.
            BundleIntegrityError: The slot is not whole.
        """
        if slot == "factory":
            if missing := missing_bundle(self.bundle_path(slot)):
                raise InputNotFoundError(missing, action="Correct $.bundle.")
            return open_bundle(self.bundle_path(slot))
        digest = _read(self._place(slot) / _DIGEST)
        if not digest:
            raise BundleIntegrityError(f"slot {slot} is not whole", expected=f"a file {_DIGEST} in it")
        return self._open(slot, digest)

    def _open(self, slot: Slot, sha256: str) -> Bundle:
        bundle = open_bundle(self.bundle_path(slot))
        if bundle.digest != sha256:
            raise BundleIntegrityError(f"slot {slot} holds another bundle", expected=sha256, actual=bundle.digest)
        return bundle

    def current(self) -> Slot | None:
        """Returns the slot that the link names, or ``None`` where there is no link or it names none of ours."""
        link = self._folder / "current"
        if not link.is_symlink():
            return None
        target = link.readlink()
        for slot in ("a", "b"):
            if target == Path("slots", slot, _BUNDLE):
                return "a" if slot == "a" else "b"
        return "factory"

    def make_current(self, slot: Slot) -> None:
        """Points the link to a slot."""
        link, temporary = self._folder / "current", self._folder / ".current.tmp"
        target = Path("slots", slot, _BUNDLE) if slot != "factory" else self.bundle_path(slot).resolve()
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
        fsync_folder(self._folder)


def missing_bundle(bundle: Path | None) -> str:
    """Returns that the bundle of ``agent.toml`` is not there, and which are shipped; empty if it is there."""
    if bundle is None or bundle.exists():
        return ""
    from lineside_models import zoo

    return f"the bundle {bundle} is not there; those that are shipped are {', '.join(zoo.NAMES)}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""
