"""Import of a bundle from a file, such as on a USB stick, verified like one that comes from the hub.

``lineside hub export`` writes the archive: the bundle, and under ``tuf/`` the signed metadata and the desired state.
The metadata goes through the device's own `TrustStore`, so an old archive is refused as a rollback, and a forged one
lacks a signature.

``lineside agent import`` puts the archive into ``<folder>/import``. The running agent takes it from there and follows
its desired state like one of the group.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lineside_agent.deployment.runner import ShouldStop
from lineside_agent.deployment.signed_target import check_group, read_manifest
from lineside_link.clock import ClockFloor
from lineside_link.messages import DESIRED_FIELD, BundleRef, Desired, decode
from lineside_link.transfer.pull_window import FetchStopped, RequestKind
from lineside_runtime.bundle import CHUNK_BYTES, MANIFEST_NAME, Manifest
from lineside_runtime.bundle.archive import SIGNED_PREFIX
from lineside_runtime.errors import (
    BundleError,
    BundleFormatError,
    BundleIntegrityError,
    FetchError,
    InputNotFoundError,
    LinesideError,
    SignatureError,
)
from lineside_runtime.files import fsync_folder, write_atomic
from lineside_runtime.progress import CountListener

if TYPE_CHECKING:
    from lineside_link.trust import TrustStore

log = logging.getLogger("lineside.offline_import")

FOLDER = "import"
DESIRED_NAME = f"{SIGNED_PREFIX}desired.json"
DESIRED_MAX_BYTES = 64 * 1024

_ZIP_ERRORS = (zipfile.BadZipFile, KeyError, RuntimeError, EOFError, ValueError, struct.error, NotImplementedError)
"""What zipfile raises for damaged, encrypted or unusual archives."""


class OfflineArchive:
    """One archive. Nothing in it is trusted before it is checked, and every size is bounded before it is read.

    Methods raise `BundleFormatError` for a file that `lineside hub export` did not make, and those that take a trust
    store raise `SignatureError` or another `BundleError` for what is not signed, old, expired or damaged.

    Raises:
        InputNotFoundError: There is no such file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputNotFoundError(f"no archive at {path}", action="Give a file that `lineside hub export` made.")
        self.path = path

    def desired(self) -> Desired:
        """Reads the desired state, unchecked; see `signed_desired`."""
        return self._parse_desired(self._read(DESIRED_NAME, DESIRED_MAX_BYTES))

    def signed_desired(self, trust: TrustStore) -> Desired:
        """Reads the desired state, and checks that the hub has signed it.

        Args:
            trust: The device's own, with this archive as its source.
        """
        data = self._read(DESIRED_NAME, DESIRED_MAX_BYTES)
        desired = self._parse_desired(data)
        trust.refresh()
        signed, actual = trust.timestamp_field(DESIRED_FIELD), hashlib.sha256(data).hexdigest()
        if signed != actual:
            raise SignatureError(
                f"{self.path}: its desired state is not the one that the hub signed",
                expected=f"sha256 {signed}" if signed else "a timestamp that names it",
                actual=f"sha256 {actual}",
                action="Export it again with `lineside hub export` of this release.",
            )
        return desired

    def _parse_desired(self, data: bytes) -> Desired:
        desired = decode(data, Desired)
        if desired.bundle is None:
            raise BundleFormatError(
                f"{self.path} desires nothing", action="Export it again with `lineside hub export`."
            )
        return desired

    def stream(
        self, kind: RequestKind, path: str, *, max_bytes: int, should_stop: Callable[[], bool]
    ) -> Iterator[bytes]:
        """As `lineside_link.transfer.repository_client.RepoClient.stream`, out of the archive."""
        del should_stop
        name = f"{SIGNED_PREFIX}metadata/{path}" if kind == "metadata" else MANIFEST_NAME
        try:
            yield self._read(name, max_bytes)
        except BundleFormatError as error:
            raise FetchError(f"the archive has no {path}", status=404) from error

    def fetch(
        self,
        bundle: BundleRef,
        folder: Path,
        progress: CountListener,
        should_stop: ShouldStop,
        *,
        trust: TrustStore,
        group: str,
    ) -> None:
        """Fetches the bundle into a folder; as `lineside_agent.deployment.fetch.Fetcher.fetch`."""
        data, manifest = self._manifest(bundle, trust=trust, group=group, should_stop=should_stop)
        done = 0
        for relative, entry in manifest.files.items():
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for piece in self._pieces(relative, entry.chunks):
                    if should_stop():
                        raise FetchStopped
                    file.write(piece)
                    done += len(piece)
                    progress(done, manifest.size_bytes)
                file.flush()
                os.fsync(file.fileno())
            fsync_folder(target.parent)
        write_atomic(folder / MANIFEST_NAME, data)

    def verify(self, *, trust: TrustStore, group: str) -> BundleRef:
        """Checks everything without keeping anything; returns the bundle."""
        bundle = self.signed_desired(trust).bundle
        if bundle is None:
            raise BundleFormatError(f"{self.path} desires nothing")
        _, manifest = self._manifest(bundle, trust=trust, group=group, should_stop=lambda: False)
        for relative, entry in manifest.files.items():
            for _ in self._pieces(relative, entry.chunks):
                pass
        return bundle

    def _manifest(
        self, bundle: BundleRef, *, trust: TrustStore, group: str, should_stop: ShouldStop
    ) -> tuple[bytes, Manifest]:
        check_group(bundle.target, group)
        data = trust.fetch_target(bundle.target, bundle.sha256, should_stop=should_stop)
        return data, read_manifest(data, bundle)

    def _pieces(self, relative: str, digests: tuple[str, ...]) -> Iterator[bytes]:
        """Yields a file's pieces, each checked before it is given on; the manifest says how many there are."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(_entry(archive, relative)) as file:
                for digest in digests:
                    piece = file.read(CHUNK_BYTES)
                    if hashlib.sha256(piece).hexdigest() != digest:
                        raise BundleIntegrityError(
                            f"{relative} in the archive", expected=digest, action="Export it again."
                        )
                    yield piece
        except _ZIP_ERRORS as error:
            raise BundleFormatError(f"{self.path}: {relative}: {error}", action="Export it again.") from error

    def _read(self, name: str, limit: int) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as archive:
                info = _entry(archive, name)
                if info.file_size > limit:
                    raise BundleFormatError(f"{name} in the archive", expected=f"at most {limit} bytes")
                with archive.open(info) as file:
                    return file.read(limit)
        except _ZIP_ERRORS as error:
            raise BundleFormatError(f"{self.path} has no {name}", action="Export it again.") from error


def _entry(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise BundleFormatError(f"{name} in the archive", expected="stored without compression")
    return info


def archive_trust(archive: OfflineArchive, folder: Path, root: Path | None) -> TrustStore:
    """Returns the device's trust store with an archive as its source.

    Args:
        folder: The agent's state folder; what is seen is remembered there.
        root: The root that ``agent.toml`` names.

    Raises:
        InputNotFoundError: There is none.
    """
    try:
        data = (root or Path("root.json")).read_bytes()
    except OSError as error:
        action = "Copy the hub's root.json to the device and name it under `root` in agent.toml."
        raise InputNotFoundError(f"no TUF root to check the archive with: {error.strerror}", action=action) from error
    from lineside_link.trust import TrustStore  # 12 MB that only an agent with an archive needs

    return TrustStore(folder / "trust", data, archive, ClockFloor(folder / "clock"))


class OfflineImport:
    """The archives in the import folder.

    Args:
        root: The root that ``agent.toml`` names.
    """

    def __init__(self, folder: Path, *, group: str, root: Path | None) -> None:
        self._folder = folder
        self._group = group
        self._root = root
        self._known: dict[str, Path] = {}
        self._gens: dict[str, tuple[int, int]] = {}
        self._unread: dict[Path, tuple[int, int]] = {}

    def find_new(self) -> list[Desired]:
        """Returns the desired states of archives that are new; what can't be one is removed, and logged."""
        found = []
        for path in sorted((self._folder / FOLDER).glob("[!.]*.lsb")):
            desired = None if path in self._known.values() else self._check(path)
            if desired is not None and desired.bundle is not None:
                self._known[desired.bundle.sha256] = path
                self._gens[desired.bundle.sha256] = (desired.epoch, desired.gen)
                found.append(desired)
        return found

    def _check(self, path: Path) -> Desired | None:
        """Returns the signed desired state of an archive; ``None`` if it has none, or none yet."""
        try:
            state = path.stat()
            archive = OfflineArchive(path)
            archive.desired()
        except FileNotFoundError:
            return None
        except LinesideError as error:
            # It may still be on its way, copied here by hand, as long as it changes from one call to the next.
            if self._is_unchanged(path, (state.st_size, state.st_mtime_ns)):
                self._remove(path, f"is not an exported archive: {error}")
            return None
        try:
            desired = archive.signed_desired(archive_trust(archive, self._folder, self._root))
        except (BundleError, FetchError) as error:
            self._remove(path, f"is refused and removed: {error}")
            return None
        except LinesideError as error:  # no root, no room: the archive may be good, and is tried again
            if not self._is_unchanged(path, (state.st_size, 0)):
                log.error("%s can't be checked: %s", path.name, error)
            return None
        self._unread.pop(path, None)
        return desired

    def _is_unchanged(self, path: Path, seen: tuple[int, int]) -> bool:
        known, self._unread[path] = self._unread.get(path), seen
        return known == seen

    def _remove(self, path: Path, reason: str) -> None:
        log.error("%s %s", path.name, reason)
        path.unlink(missing_ok=True)
        self._unread.pop(path, None)

    def holds(self, bundle: BundleRef) -> bool:
        """Returns whether an archive here has the bundle."""
        path = self._known.get(bundle.sha256)
        return path is not None and path.exists()

    def fetch(self, bundle: BundleRef, folder: Path, progress: CountListener, should_stop: ShouldStop) -> None:
        """As `OfflineArchive.fetch`, from the archive that has it."""
        archive = OfflineArchive(self._known[bundle.sha256])
        trust = archive_trust(archive, self._folder, self._root)
        archive.fetch(bundle, folder, progress, should_stop, trust=trust, group=self._group)

    def answered(self, epoch: int, gen: int) -> None:
        """Removes the archives whose desired states are answered, up to this one."""
        for sha256, asked in list(self._gens.items()):
            if asked <= (epoch, gen):
                self._known.pop(sha256).unlink(missing_ok=True)
                del self._gens[sha256]


def copy_in(archive: Path, folder: Path) -> Path:
    """Copies an archive into the import folder of an agent's state folder, whole or not at all."""
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    temporary, final = target / f".{archive.name}.tmp", target / archive.name
    try:
        with archive.open("rb") as source, temporary.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(target)
    return final
