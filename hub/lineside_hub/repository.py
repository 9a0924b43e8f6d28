"""`Repository`: signed bundles on disk, for devices that trust nothing but the first root.

::

    folder/
    ├── keys/        root, targets and one key a group: can be carried away, encrypted with a passphrase
    ├── online/      the keys of snapshot and timestamp: the hub renews by itself
    ├── metadata/    1.root.json … timestamp.json (TUF, consistent snapshots)
    ├── targets/     <group>/<sha256>.<name>-<version>.json: the manifests
    └── chunks/      the content of all bundles, by hash

Root and targets only delegate; each group has a role whose key signs ``<group>/*`` and nothing else, so
a stolen group key endangers one group. Publishing writes chunks, manifest, group, snapshot and last the
timestamp: a kill in between leaves what was published before.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from tuf.api.metadata import DelegatedRole, Delegations, Root, TargetFile, Targets

from lineside_agent.self_update.payload import MANIFEST_NAME as AGENT_MANIFEST_NAME
from lineside_agent.self_update.payload import NAME as AGENT_NAME
from lineside_agent.self_update.payload import Payload
from lineside_hub.chunks import ChunkStore
from lineside_hub.keys import KeyRing
from lineside_hub.lock import folder_lock
from lineside_hub.metadata import ONLINE, TOP_LEVEL, MetadataFolder
from lineside_link.messages import BundleRef
from lineside_link.topics import check_name
from lineside_runtime.bundle import CHUNK_BYTES, MANIFEST_NAME, Bundle, FileList
from lineside_runtime.errors import (
    BundleIntegrityError,
    ConfigError,
    InputNotFoundError,
    RolloutError,
    TargetNotFoundError,
)
from lineside_runtime.files import fsync_folder, write_atomic

_log = logging.getLogger("lineside.hub.repository")

WARN_BEFORE_DAYS = 14
"""How long before the expiry of a role that only a person can renew the log starts to say so."""

SNAPSHOT_RENEW_BEFORE_DAYS = 4
"""Renewed after three of its seven days, so that a hub that was off for a long weekend comes back in time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Expiry:
    """When a role's metadata stops being accepted by devices."""

    role: str
    at: datetime.datetime


class Repository:
    """The repository of one hub. Its methods may be called from several processes; writers wait for one another.

    Attributes:
        folder: The hub's folder.
        chunks: The content of all bundles.
    """

    def __init__(self, folder: Path, *, passphrase: str | None = None) -> None:
        self.folder = folder
        self.chunks = ChunkStore(folder / "chunks")
        self._metadata = folder / "metadata"
        self._offline_keys = KeyRing(folder / "keys", passphrase=passphrase)
        self._online_keys = KeyRing(folder / "online")

    @classmethod
    def create(cls, folder: Path | str, *, groups: Sequence[str] = (), passphrase: str | None = None) -> Repository:
        """Makes keys and the first metadata; a run that was cut off is finished by the next.

        Args:
            folder: Made if it is not there.
            groups: Device groups to sign for; more can be added later.
            passphrase: Encrypts the keys of root, targets and groups, if given.

        Raises:
            RolloutError: There is a repository already.
            ConfigError: A group's name cannot be used.
        """
        repository = cls(Path(folder), passphrase=passphrase)
        for group in groups:
            _check_group(group)
        for part in ("metadata", "targets", "chunks"):
            (repository.folder / part).mkdir(parents=True, exist_ok=True)
        fsync_folder(repository.folder)
        with folder_lock(repository.folder):
            if (repository._metadata / "timestamp.json").exists():
                action = "Open it, or choose another folder; add_group adds a group."
                raise RolloutError(f"{folder} holds a repository already", action=action)
            repository._write_first(groups)
        return repository

    @classmethod
    def open(cls, folder: Path | str, *, passphrase: str | None = None) -> Repository:
        """Opens a repository that `create` made.

        Args:
            folder: The hub's folder.
            passphrase: Opens the keys of targets and groups; needed for publishing only, and only if there is one.

        Raises:
            InputNotFoundError: There is none.
        """
        repository = cls(Path(folder), passphrase=passphrase)
        if not (repository._metadata / "timestamp.json").is_file():
            raise InputNotFoundError(f"{folder} holds no repository", action="Make one with Repository.create first.")
        return repository

    def root_bytes(self) -> bytes:
        """Returns the first root's metadata: what a device is given when it is enrolled, and trusts from then on."""
        return (self._metadata / "1.root.json").read_bytes()

    def groups(self) -> tuple[str, ...]:
        """Returns the groups that bundles can be signed for, sorted."""
        delegations = MetadataFolder(self._metadata).targets().delegations
        return tuple(sorted(delegations.roles)) if delegations and delegations.roles else ()

    def add_group(self, name: str) -> None:
        """Makes a key for a group and delegates ``<name>/*`` to it; does nothing if that is so already.

        Raises:
            ConfigError: The name cannot be used.
            SignatureError: The passphrase does not open the keys.
        """
        _check_group(name)
        with folder_lock(self.folder):
            if name in self.groups():
                return
            self._delegate([name])

    def publish(self, bundle: Bundle, group: str) -> BundleRef:
        """Verifies a bundle, stores its content and signs its manifest for a group.

        Publishing the same bundle again changes nothing, but replaces chunks that have rotted.

        Raises:
            BundleIntegrityError: The bundle's files are not what its manifest says.
            RolloutError: There is no such group, or this name and version are published with another content.
            SignatureError: The passphrase does not open the group's key, or it is not the key trusted for the group.
        """
        reference, manifest = _describe(bundle, group)
        bundle.verify()
        self._publish(reference, manifest, _pieces(bundle.path, bundle.manifest))
        return reference

    def publish_agent(self, payload: Payload, group: str) -> BundleRef:
        """As `publish`, for an agent's payload.

        Raises:
            BundleIntegrityError: The payload's files are not what its manifest says.
            RolloutError: As for `publish`.
            SignatureError: As for `publish`.
        """
        reference, manifest = _describe_agent(payload, group)
        payload.verify()
        self._publish(reference, manifest, _pieces(payload.path, payload.manifest))
        return reference

    def _publish(self, reference: BundleRef, manifest: bytes, pieces: Iterator[tuple[bytes, str]]) -> None:
        group = reference.target.split("/")[0]
        with folder_lock(self.folder):
            known = self._target(reference)
            if known is not None and known.hashes["sha256"] != reference.sha256:
                raise RolloutError(
                    f"{reference.identity} is published for {group!r} with another content",
                    expected=f"manifest {known.hashes['sha256']}",
                    actual=reference.sha256,
                    action="Give the new one another version.",
                )
            self._store(reference, manifest, pieces)
            if known is None:
                edit = self._edit(group)
                with edit.edit_targets(group) as targets:
                    targets.targets[reference.target] = TargetFile.from_data(reference.target, manifest, ["sha256"])
                edit.publish()
                _log.info("published %s for %s", reference.identity, group)

    def find(self, group: str, *, name: str, version: str, sha256: str | None = None) -> BundleRef:
        """Returns the reference of a bundle that was published before.

        Args:
            group: For which it was published.
            name: Of the bundle.
            version: Of the bundle.
            sha256: Of its manifest; any if ``None``.

        Raises:
            RolloutError: There is no such group.
            TargetNotFoundError: It was never published for the group, or not with this manifest.
        """
        target = f"{group}/{name}-{version}.json"
        reference = BundleRef(name=name, version=version, target=target, sha256="")
        known = self._target(reference)
        if known is None or sha256 not in (None, known.hashes["sha256"]):
            raise TargetNotFoundError(f"{name}@{version} is not published for {group!r}", expected=sha256)
        return BundleRef(name=name, version=version, target=target, sha256=known.hashes["sha256"])

    def renew(self) -> None:
        """Signs timestamp, and the snapshot if it ages, once more, so that devices see that nobody holds news back.

        The hub does this at its start and every hour. It warns of roles that only a person can renew.
        """
        with folder_lock(self.folder):
            edit = self._edit()
            left = edit.snapshot().expires - datetime.datetime.now(datetime.timezone.utc)
            edit.publish(force_snapshot=left < datetime.timedelta(days=SNAPSHOT_RENEW_BEFORE_DAYS))
        for expiry in self.expiring():
            _log.warning(
                "the signature of %s expires at %s: devices refuse updates from then on; renew_offline() with its keys",
                expiry.role,
                expiry.at.isoformat(),
            )

    def renew_offline(self) -> None:
        """Signs root, targets and all groups once more, with the keys of a person.

        Raises:
            InputNotFoundError: A key is not there.
            SignatureError: The passphrase does not open the keys.
        """
        with folder_lock(self.folder):
            groups = self.groups()
            edit = self._edit(Root.type, Targets.type, *groups)
            with edit.edit_root():
                pass
            for role in (Targets.type, *groups):
                with edit.edit_targets(role):
                    pass
            edit.publish()

    def expiring(self, *, within_days: float = WARN_BEFORE_DAYS) -> list[Expiry]:
        """Returns the roles of persons (root, targets, groups) that expire within so many days."""
        edit = MetadataFolder(self._metadata)
        limit = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=within_days)
        roles = (Root.type, Targets.type, *self.groups())
        expiries = [Expiry(role, edit.open(role).signed.expires) for role in roles]
        return [expiry for expiry in expiries if expiry.at < limit]

    def _write_first(self, groups: Sequence[str]) -> None:
        signers = {role: self._keys_of(role).ensure(role) for role in TOP_LEVEL}
        if not (self._metadata / "1.root.json").exists():
            first = MetadataFolder(self._metadata, signers)
            with first.edit_root() as root:
                for role, signer in signers.items():
                    root.add_key(signer.public_key, role)
        self._delegate(groups)

    def _edit(self, *offline: str) -> MetadataFolder:
        signers = {role: self._online_keys.load(role) for role in ONLINE}
        signers |= {role: self._offline_keys.load(role) for role in offline}
        return MetadataFolder(self._metadata, signers)

    def _delegate(self, groups: Sequence[str]) -> None:
        for group in groups:
            self._offline_keys.ensure(group)
        edit = self._edit(Targets.type, *groups)
        with edit.edit_targets() as targets:
            if targets.delegations is None:
                targets.delegations = Delegations({}, {})
            roles = targets.delegations.roles
            if roles is None:
                raise BundleIntegrityError("the targets role delegates by hash bins, which this release does not make")
            for group in groups:
                roles[group] = DelegatedRole(group, [], 1, True, paths=[f"{group}/*"])
                targets.add_key(edit.public_key(group), group)
        for group in groups:
            with edit.edit_targets(group):
                pass
        edit.publish()

    def _keys_of(self, role: str) -> KeyRing:
        return self._online_keys if role in ONLINE else self._offline_keys

    def _target(self, reference: BundleRef) -> TargetFile | None:
        group = reference.target.split("/")[0]
        if group not in self.groups():
            known = ", ".join(self.groups()) or "none yet"
            raise RolloutError(f"no group {group!r}", expected=known, actual=group, action="Add the group first.")
        return MetadataFolder(self._metadata).targets(group).targets.get(reference.target)

    def _store(self, reference: BundleRef, manifest: bytes, pieces: Iterator[tuple[bytes, str]]) -> None:
        for data, digest in pieces:
            if self.chunks.put(data) != digest:
                raise BundleIntegrityError(f"{reference.identity}: a chunk differs from the manifest", expected=digest)
        group, _, name = reference.target.partition("/")
        folder = self.folder / "targets" / group
        if not folder.is_dir():
            folder.mkdir(parents=True)
            fsync_folder(folder.parent)
        write_atomic(folder / f"{reference.sha256}.{name}", manifest)


def _pieces(folder: Path, manifest: FileList) -> Iterator[tuple[bytes, str]]:
    for relative, entry in manifest.files.items():
        with (folder / relative).open("rb") as file:
            for digest in entry.chunks:
                yield file.read(CHUNK_BYTES), digest


def _describe(bundle: Bundle, group: str) -> tuple[BundleRef, bytes]:
    name = check_name(bundle.manifest.name, "bundle")
    version = check_name(bundle.manifest.version, "version")
    manifest = (bundle.path / MANIFEST_NAME).read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    if digest != bundle.digest:
        raise BundleIntegrityError(f"{bundle.path}: the manifest changed", expected=bundle.digest, actual=digest)
    target = f"{group}/{name}-{version}.json"
    return BundleRef(name=name, version=version, target=target, sha256=digest), manifest


def _describe_agent(payload: Payload, group: str) -> tuple[BundleRef, bytes]:
    version = check_name(payload.manifest.version, "version")
    manifest = (payload.path / AGENT_MANIFEST_NAME).read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    if digest != payload.digest:
        raise BundleIntegrityError(f"{payload.path}: the manifest changed", expected=payload.digest, actual=digest)
    target = f"{group}/agent-{version}-{check_name(payload.manifest.tag, 'tag')}.agent.json"
    return BundleRef(name=AGENT_NAME, version=version, target=target, sha256=digest), manifest


def _check_group(name: str) -> None:
    check_name(name, "group")
    if name in TOP_LEVEL:
        raise ConfigError(f"group name {name!r}", expected="none of TUF's own roles", action="Choose another name.")
