"""Import of a bundle from a USB stick, verified like one that comes from the hub.

``lineside hub export`` writes the archive: the bundle, and under ``tuf/`` the signed metadata and the wish. The
metadata goes through the device's own `TrustStore`, so an old stick is a rollback and a forged one lacks a signature.

`lineside agent import` puts the archive into ``<folder>/import``; the running agent takes it from there, and the update
machine treats its wish like one of the group's: with slots, golden replay, health check and the way back.
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

from lineside_agent.deployment.artifacts.bundle import Progress
from lineside_agent.deployment.runner import ShouldStop
from lineside_link.clock import ClockFloor
from lineside_link.messages import DESIRED_FIELD, BundleRef, Desired, decode
from lineside_link.transfer.pull_window import FetchStopped, Kind
from lineside_runtime.bundle import CHUNK_BYTES, MANIFEST_NAME, Manifest, parse_manifest
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

if TYPE_CHECKING:
    from lineside_link.trust import TrustStore

log = logging.getLogger("lineside.stick")

FOLDER = "import"
WISH_NAME = f"{SIGNED_PREFIX}desired.json"
WISH_MAX_BYTES = 64 * 1024

_ZIP_ERRORS = (zipfile.BadZipFile, KeyError, RuntimeError, EOFError, ValueError, struct.error, NotImplementedError)
"""What zipfile raises for damaged, encrypted or unusual archives."""


class OfflineBundle:
    """One archive. Nothing of it is believed before it is checked, and every size is bounded before it is read.

    Args:
        path: The ``.lsb`` file.

    Raises:
        InputNotFoundError: There is no such file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputNotFoundError(f"no archive at {path}", action="Give a file that `lineside hub export` made.")
        self.path = path

    def wish(self) -> Desired:
        """Reads what the stick wants; nobody has signed it until `signed_wish`.

        Raises:
            BundleFormatError: It is no exported archive.
            BadInputFormatError: Its wish can't be read.
        """
        return self._wish(self._read(WISH_NAME, WISH_MAX_BYTES))

    def signed_wish(self, trust: TrustStore) -> Desired:
        """Reads what the stick wants, and checks that the hub has signed it.

        Args:
            trust: The device's own, with this archive as its source.

        Raises:
            SignatureError: The wish is another one than the stick's timestamp names, or a signature is missing.
            BundleError: Metadata is forged, old, expired or damaged.
        """
        data = self._read(WISH_NAME, WISH_MAX_BYTES)
        wish = self._wish(data)
        trust.refresh()
        signed = trust.timestamp_field(DESIRED_FIELD)
        if signed != hashlib.sha256(data).hexdigest():
            raise SignatureError(
                f"{self.path}: its desired state is not the one that the hub signed",
                expected=f"sha256 {signed}" if signed else "a timestamp that names it",
                actual=f"sha256 {hashlib.sha256(data).hexdigest()}",
                action="Export it again with `lineside hub export` of this release.",
            )
        return wish

    def _wish(self, data: bytes) -> Desired:
        desired = decode(data, Desired)
        if desired.bundle is None:
            raise BundleFormatError(f"{self.path} wants nothing", action="Export it again with `lineside hub export`.")
        return desired

    def stream(self, kind: Kind, path: str, *, max_bytes: int, should_stop: Callable[[], bool]) -> Iterator[bytes]:
        """As `lineside_link.transfer.repository_client.RepoClient.stream`, out of the archive."""
        name = f"{SIGNED_PREFIX}metadata/{path}" if kind == "metadata" else MANIFEST_NAME
        try:
            yield self._read(name, max_bytes)
        except BundleFormatError as error:
            raise FetchError(f"the stick has no {path}", status=404) from error

    def bring(
        self,
        bundle: BundleRef,
        folder: Path,
        progress: Progress,
        should_stop: ShouldStop,
        *,
        trust: TrustStore,
        group: str,
    ) -> None:
        """Brings the bundle into a folder; as `lineside_agent.deployment.fetch.Fetcher.bring`.

        Args:
            bundle: What is wanted.
            folder: Where its files go.
            progress: Told the bytes that are there, and all.
            should_stop: Asked between pieces.
            trust: The device's own, with this archive as its source.
            group: Of the device.

        Raises:
            SignatureError: It is of another group, or not signed for it.
            BundleError: Metadata, manifest or content is forged, old, expired or damaged.
            DiskFullError: There is no room.
            lineside_link.transfer.pull_window.FetchStopped: Asked to.
        """
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
        """Checks everything without keeping anything; errors as `bring`.

        Args:
            trust: With this archive as its source.
            group: Of the device.

        Returns:
            What the stick wants.
        """
        bundle = self.signed_wish(trust).bundle
        if bundle is None:
            raise BundleFormatError(f"{self.path} wants nothing")
        _, manifest = self._manifest(bundle, trust=trust, group=group, should_stop=lambda: False)
        for relative, entry in manifest.files.items():
            for _ in self._pieces(relative, entry.chunks):
                pass
        return bundle

    def _manifest(
        self, bundle: BundleRef, *, trust: TrustStore, group: str, should_stop: ShouldStop
    ) -> tuple[bytes, Manifest]:
        if not bundle.target.startswith(f"{group}/"):
            raise SignatureError(
                f"{bundle.target} is not for this device's group", expected=f"{group}/…", actual=bundle.target
            )
        data = trust.fetch_target(bundle.target, bundle.sha256, should_stop=should_stop)
        manifest = parse_manifest(data)
        if manifest.identity != bundle.identity:
            raise BundleFormatError("another bundle", expected=bundle.identity, actual=manifest.identity)
        return data, manifest

    def _pieces(self, relative: str, digests: tuple[str, ...]) -> Iterator[bytes]:
        """Yields a file's pieces, each checked before it is given on; the manifest says how many there are."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._entry(archive, relative)) as file:
                for digest in digests:
                    piece = file.read(CHUNK_BYTES)
                    if hashlib.sha256(piece).hexdigest() != digest:
                        raise BundleIntegrityError(
                            f"{relative} on the stick", expected=digest, action="Export it again."
                        )
                    yield piece
        except _ZIP_ERRORS as error:
            raise BundleFormatError(f"{self.path}: {relative}: {error}", action="Export it again.") from error

    def _read(self, name: str, limit: int) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as archive:
                info = self._entry(archive, name)
                if info.file_size > limit:
                    raise BundleFormatError(f"{name} on the stick", expected=f"at most {limit} bytes")
                with archive.open(info) as file:
                    return file.read(limit)
        except _ZIP_ERRORS as error:
            raise BundleFormatError(f"{self.path} has no {name}", action="Export it again.") from error

    @staticmethod
    def _entry(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise BundleFormatError(f"{name} on the stick", expected="stored without compression")
        return info


def stick_trust(stick: OfflineBundle, folder: Path, root: Path | None) -> TrustStore:
    """Returns the device's trust with a stick as its source.

    Args:
        stick: The archive.
        folder: The agent's state folder; what is seen is remembered there.
        root: The root that ``agent.toml`` names.

    Raises:
        InputNotFoundError: There is none.
    """
    try:
        data = (root or Path("root.json")).read_bytes()
    except OSError as error:
        action = "Copy the hub's root.json to the device and name it under `root` in agent.toml."
        raise InputNotFoundError(f"no TUF root to check the stick with: {error.strerror}", action=action) from error
    from lineside_link.trust import TrustStore  # only who has a stick pays for it

    return TrustStore(folder / "trust", data, stick, ClockFloor(folder / "clock"))


class OfflineImport:
    """The archives that were put into the import folder.

    Args:
        folder: The agent's state folder.
        group: Of the device.
        root: The root that ``agent.toml`` names.
    """

    def __init__(self, folder: Path, *, group: str, root: Path | None) -> None:
        self._folder = folder
        self._group = group
        self._root = root
        self._known: dict[str, Path] = {}
        self._gens: dict[str, tuple[int, int]] = {}
        self._unread: dict[Path, tuple[int, int]] = {}

    def look(self) -> list[Desired]:
        """Returns the wishes of archives that are new.

        One that can't be read may still be on its way, copied here by hand: it stays as long as it changes from look
        to look. After that it is said and removed.
        """
        found = []
        for path in sorted((self._folder / FOLDER).glob("[!.]*.lsb")):
            if path in self._known.values():
                continue
            try:
                state = path.stat()
                stick = OfflineBundle(path)
                wish = stick.wish()
            except FileNotFoundError:
                continue
            except LinesideError as error:
                seen = (state.st_size, state.st_mtime_ns)
                if self._unread.get(path) != seen:
                    self._unread[path] = seen
                    continue
                log.error("%s is no stick's archive: %s", path.name, error)
                path.unlink(missing_ok=True)
                self._unread.pop(path)
                continue
            try:
                wish = stick.signed_wish(stick_trust(stick, self._folder, self._root))
            except (BundleError, FetchError) as error:
                log.error("%s is refused and removed: %s", path.name, error)
                path.unlink(missing_ok=True)
                self._unread.pop(path, None)
                continue
            except LinesideError as error:  # no root, no room: the archive may be good, and is tried at each look
                if self._unread.get(path) != (state.st_size, 0):
                    self._unread[path] = (state.st_size, 0)
                    log.error("%s can't be checked: %s", path.name, error)
                continue
            self._unread.pop(path, None)
            if wish.bundle is not None:
                self._known[wish.bundle.sha256] = path
                self._gens[wish.bundle.sha256] = (wish.epoch, wish.gen)
                found.append(wish)
        return found

    def holds(self, bundle: BundleRef) -> bool:
        """Whether an archive here has the bundle."""
        path = self._known.get(bundle.sha256)
        return path is not None and path.exists()

    def bring(self, bundle: BundleRef, folder: Path, progress: Progress, should_stop: ShouldStop) -> None:
        """As `OfflineBundle.bring`, from the archive that has it."""
        stick = OfflineBundle(self._known[bundle.sha256])
        trust = stick_trust(stick, self._folder, self._root)
        stick.bring(bundle, folder, progress, should_stop, trust=trust, group=self._group)

    def done(self, epoch: int, gen: int) -> None:
        """Removes the archives whose wishes were answered.

        Args:
            epoch: Of the wish that was answered last.
            gen: Of the same.
        """
        for sha256, asked in list(self._gens.items()):
            if asked <= (epoch, gen):
                self._known.pop(sha256).unlink(missing_ok=True)
                del self._gens[sha256]


def put(archive: Path, folder: Path) -> Path:
    """Copies an archive into an agent's import folder, whole or not at all.

    Args:
        archive: On the stick.
        folder: The agent's state folder.
    """
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
