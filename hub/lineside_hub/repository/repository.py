"""The signed repository of a hub: bundles, configurations and agents for devices that trust only the first root.

Root and targets only delegate; each group has a role whose key signs ``<group>/*`` only, so a stolen group key
endangers one group. Publishing writes chunks, manifest, group, snapshot and last the timestamp: a kill in between
leaves the old state.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuf.api.metadata import (
    Metadata,
    Snapshot,
    TargetFile,
    Timestamp,
)

from lineside_agent.config import read_settings
from lineside_agent.deployment.self_update.payload import MANIFEST_NAME as AGENT_MANIFEST_NAME
from lineside_agent.deployment.self_update.payload import NAME as AGENT_NAME
from lineside_agent.deployment.self_update.payload import Payload
from lineside_hub.folder_lock import folder_lock
from lineside_hub.repository.chunks import ChunkStore, chunk_blobs
from lineside_hub.repository.layout import RepositoryLayout
from lineside_hub.repository.metadata import (
    LIFETIME_DAYS,
    MetadataFolder,
    prepare,
)
from lineside_hub.repository.roles import ROOT_KEYS_MAX, SigningRoles, check_group_name
from lineside_link.messages import DESIRED_FIELD, TIMING_SUFFIX, BundleRef, ConfigRef
from lineside_link.topics import check_name
from lineside_runtime.bundle import CHUNK_BYTES, MANIFEST_NAME, Bundle, FileList, open_bundle, parse_manifest
from lineside_runtime.errors import (
    BundleIntegrityError,
    ConfigError,
    InputNotFoundError,
    RolloutError,
    TargetNotFoundError,
)
from lineside_runtime.files import fsync_folder, write_atomic

_log = logging.getLogger("lineside.hub.repository")


class Repository:
    """The repository of one hub; writers in several processes wait for one another."""

    def __init__(self, folder: Path, *, passphrase: str | None = None) -> None:
        self.folder = folder
        self.layout = RepositoryLayout(folder)
        self.chunks = ChunkStore(chunk_blobs(folder))
        self.roles = SigningRoles(folder, passphrase=passphrase)
        self._metadata = self.layout.metadata

    @classmethod
    def create(
        cls,
        folder: Path | str,
        *,
        groups: Sequence[str] = (),
        online_groups: Sequence[str] = (),
        root_keys: int = 1,
        root_threshold: int = 1,
        passphrase: str | None = None,
    ) -> Repository:
        """Makes keys and the first metadata; an interrupted run is finished by the next.

        Args:
            folder: Made if it is not there.
            groups: Device groups to sign for; more can be added later.
            online_groups: Groups whose key stays with the hub, for a canary that a machine pushes to.
            root_keys: Number of root keys; they can be moved to different places afterwards.
            root_threshold: How many of them must sign each later root.
            passphrase: Encrypts the keys of root, targets and groups, if given.

        Raises:
            RolloutError: There is a repository already.
            ConfigError: A group's name cannot be used, its key is to be in both places, or the threshold can't be met.
        """
        if not 1 <= root_keys <= ROOT_KEYS_MAX:
            raise ConfigError("root keys", expected=f"1 to {ROOT_KEYS_MAX}", actual=root_keys)
        if not 1 <= root_threshold <= root_keys:
            raise ConfigError("root threshold", expected=f"1 to {root_keys}, the root keys", actual=root_threshold)
        repository = cls(Path(folder), passphrase=passphrase)
        for group in (*groups, *online_groups):
            check_group_name(group)
        if both := sorted({*groups} & {*online_groups}):
            raise ConfigError("group", expected="its key with the hub or with a person", actual=f"both: {both[0]}")
        repository.layout.make()
        fsync_folder(repository.folder)
        with folder_lock(repository.folder):
            if (repository._metadata / "timestamp.json").exists():
                action = "Choose another folder; `lineside hub add-group` adds a group to this one."
                raise RolloutError(f"{folder} holds a repository already", action=action)
            repository.roles.create(groups, online_groups, root_keys=root_keys, root_threshold=root_threshold)
        return repository

    @classmethod
    def open(cls, folder: Path | str, *, passphrase: str | None = None) -> Repository:
        """Opens a repository that `create` made.

        Args:
            passphrase: Opens the keys of targets and groups; needed for publishing only, and only if there is one.

        Raises:
            InputNotFoundError: There is none.
        """
        repository = cls(Path(folder), passphrase=passphrase)
        if not (repository._metadata / "timestamp.json").is_file():
            raise InputNotFoundError(f"{folder} holds no repository", action="Make one first: lineside hub init.")
        return repository

    def root_bytes(self) -> bytes:
        """Returns the first root, which a device trusts from its enrolment on."""
        return (self._metadata / "1.root.json").read_bytes()

    def groups(self) -> tuple[str, ...]:
        """Returns the groups that bundles can be signed for, sorted."""
        return self.roles.groups()

    def publish(self, bundle: Bundle, group: str, *, timing_only: bool = False) -> BundleRef:
        """Verifies a bundle, stores its content and signs its manifest for a group.

        A repeat changes nothing but replaces damaged chunks.

        Args:
            timing_only: Signs it for timing only: no device runs it. It may be replaced by another content.

        Raises:
            BundleIntegrityError: The bundle's files are not what its manifest says.
            RolloutError: There is no such group, or this name and version are published with another content.
            SignatureError: The passphrase does not open the group's key, or it is not the key trusted for the group.
        """
        reference, manifest = _describe(bundle, group, TIMING_SUFFIX if timing_only else ".json")
        bundle.verify()
        if timing_only:
            self.withdraw(reference.target)
        self.publish_files(reference, manifest, bundle.path, bundle.manifest)
        return reference

    def sign_for(self, reference: BundleRef, group: str) -> BundleRef:
        """Signs a published bundle for another group; a repeat changes nothing.

        Raises:
            RolloutError: There is no such group, or this name and version are published for it with another content.
            SignatureError: The passphrase does not open the group's key.
            InputNotFoundError: The group's key is not here.
        """
        manifest = self.target_bytes(reference.target, reference.sha256)
        target = f"{group}/{reference.name}-{reference.version}.json"
        signed = BundleRef(name=reference.name, version=reference.version, target=target, sha256=reference.sha256)
        self._publish(signed, manifest, iter(()))
        return signed

    def withdraw(self, target: str) -> None:
        """Removes a target from the signed metadata; its chunks stay until `lineside hub prune`.

        Raises:
            RolloutError: There is no such group.
            SignatureError: The passphrase does not open the group's key.
        """
        with folder_lock(self.folder):
            group = target.split("/")[0]
            if target in self.targets_of(group):
                self.withdraw_targets({group: [target]})

    def publish_agent(self, payload: Payload, group: str) -> BundleRef:
        """As `publish`, for an agent's payload.

        Raises:
            BundleIntegrityError: The payload's files are not what its manifest says.
            RolloutError: As for `publish`.
            SignatureError: As for `publish`.
        """
        reference, manifest = _describe_agent(payload, group)
        payload.verify()
        self.publish_files(reference, manifest, payload.path, payload.manifest)
        return reference

    def publish_files(self, reference: BundleRef, manifest: bytes, folder: Path, files: FileList) -> None:
        """Stores the content of files and signs the manifest that names them.

        Args:
            reference: Target and sha256 of the manifest.

        Raises:
            BundleIntegrityError: A file differs from the manifest.
            RolloutError: As for `publish`.
            SignatureError: As for `publish`.
        """
        self._publish(reference, manifest, _pieces(folder, files))

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
            for data, digest in pieces:
                if self.chunks.put(data) != digest:
                    raise BundleIntegrityError(
                        f"{reference.identity}: a chunk differs from the manifest", expected=digest
                    )
            self._write_target(reference.target, reference.sha256, manifest)
            self._sign_target(reference, manifest)

    def publish_config(self, data: bytes, group: str) -> ConfigRef:
        """Checks a configuration against the agent's schema and signs it for a group; a repeat changes nothing.

        Args:
            data: TOML: the part of ``agent.toml`` that a hub may set.

        Raises:
            ConfigError: It breaks the schema; the message names the path.
            RolloutError: There is no such group.
            SignatureError: The passphrase does not open the group's key, or it is not the key trusted for the group.
        """
        read_settings(data)
        check_group_name(group)
        digest = hashlib.sha256(data).hexdigest()
        reference = ConfigRef(target=f"{group}/config-{digest[:16]}.toml", sha256=digest)
        with folder_lock(self.folder):
            self.roles.check_group(group)
            self._write_target(reference.target, digest, data)
            self._sign_target(reference, data)
        return reference

    def find(self, group: str, *, name: str, version: str, sha256: str | None = None) -> BundleRef:
        """Returns the reference of a published bundle.

        Args:
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

    def find_agent(self, group: str, running: BundleRef) -> BundleRef | None:
        """Returns the published release of the agent that a device reports, if there is one.

        Args:
            running: As the device reports it, without its target.

        Raises:
            RolloutError: There is no such group.
        """
        for target, sha256 in self.hashes_of(group).items():
            if target.startswith(f"{group}/agent-") and sha256 == running.sha256:
                return BundleRef(name=AGENT_NAME, version=running.version, target=target, sha256=running.sha256)
        return None

    def targets_of(self, group: str) -> tuple[str, ...]:
        """Returns the paths of all targets of a group.

        Raises:
            RolloutError: There is no such group.
        """
        return tuple(self.hashes_of(group))

    def hashes_of(self, group: str) -> dict[str, str]:
        """Returns the sha256 of each target of a group, by its path.

        Raises:
            RolloutError: There is no such group.
        """
        self.roles.check_group(group)
        found = MetadataFolder(self._metadata).targets(group).targets
        return {target: file.hashes["sha256"] for target, file in found.items()}

    def published_at(self, target: str) -> float:
        """Returns when a target's file was written, as Unix time; 0 if it does not exist."""
        return max((path.stat().st_mtime for path in self.layout.contents_of(target)), default=0.0)

    def target_bytes(self, target: str, sha256: str) -> bytes:
        """Returns the content of a target.

        Raises:
            BundleIntegrityError: Its file is missing or damaged.
        """
        path = self.layout.target(target, sha256)
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BundleIntegrityError(f"{path} is missing or damaged", expected=sha256, action="Push it again.")
        return data

    def write_bundle(self, ref: BundleRef, folder: Path) -> Bundle:
        """Writes a published bundle into a folder, and opens it there.

        Raises:
            BundleIntegrityError: Its manifest or a chunk is missing or damaged.
        """
        data = self.target_bytes(ref.target, ref.sha256)
        for relative, entry in parse_manifest(data).files.items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.writelines(self.chunks.pieces(entry, ref.identity))
        write_atomic(folder / MANIFEST_NAME, data)
        return open_bundle(folder)

    def withdraw_targets(self, going: Mapping[str, Sequence[str]]) -> None:
        """Removes targets from the signed metadata and deletes their files; the caller holds the folder's lock.

        Args:
            going: Paths of targets by group.

        Raises:
            SignatureError: The passphrase does not open a group's key.
        """
        if not going:
            return
        edit = self.roles.edit(*going)
        for group, targets in going.items():
            with edit.edit_targets(group) as signed:
                for target in targets:
                    signed.targets.pop(target, None)
        edit.publish()
        for targets in going.values():
            for target in targets:
                for path in self.layout.contents_of(target):
                    path.unlink(missing_ok=True)

    def sign_offline_medium(self, desired: bytes, *, days: float) -> dict[str, bytes]:
        """Signs a snapshot and timestamp that expire after some days, then newer ones of the usual lifetime for the
        hub.

        Args:
            desired: The desired state that the medium carries; the medium's timestamp names its sha256.

        Returns:
            All metadata of this state, under ``tuf/metadata/`` as a device asks for it.
        """
        with folder_lock(self.folder):
            edit = self.roles.edit()
            snapshot = edit.open(Snapshot.type)
            prepare(Snapshot.type, snapshot, days=max(days, LIFETIME_DAYS[Snapshot.type]))
            self._sign_and_write(edit, Snapshot.type, snapshot)
            # Over the link it is only valid for a moment: one with the usual lifetime follows at once.
            offline = edit.open(Timestamp.type)
            offline.signed.snapshot_meta = edit.snapshot_info
            offline.signed.unrecognized_fields[DESIRED_FIELD] = hashlib.sha256(desired).hexdigest()
            prepare(Timestamp.type, offline, days=days)
            self._sign_and_write(edit, Timestamp.type, offline)
            files = self._chain_files(edit)
            with edit.edit_timestamp() as timestamp:
                del timestamp.unrecognized_fields[DESIRED_FIELD]
        return {f"tuf/metadata/{name}": data for name, data in files.items()}

    def _sign_and_write(self, edit: MetadataFolder, role: str, md: Metadata[Any]) -> None:
        for signer in self.roles.signers(role)[role]:
            md.sign(signer, append=True)
        edit.write(role, md)

    def _chain_files(self, edit: MetadataFolder) -> dict[str, bytes]:
        """Returns all roots, and the files that the timestamp leads to."""
        names = [path.name for path in self._metadata.glob("*.root.json")]
        names += ["timestamp.json", f"{edit.timestamp().snapshot_meta.version}.snapshot.json"]
        names += [f"{info.version}.{name}" for name, info in edit.snapshot().meta.items()]
        return {name: (self._metadata / name).read_bytes() for name in names}

    def _target(self, reference: BundleRef) -> TargetFile | None:
        group = reference.target.split("/")[0]
        self.roles.check_group(group)
        return MetadataFolder(self._metadata).targets(group).targets.get(reference.target)

    def _write_target(self, target: str, sha256: str, data: bytes) -> None:
        path = self.layout.target(target, sha256)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            fsync_folder(path.parent.parent)
        write_atomic(path, data)

    def _sign_target(self, reference: BundleRef | ConfigRef, data: bytes) -> None:
        """Adds a target to the signed metadata, if it is not there."""
        target = reference.target
        group = target.split("/")[0]
        if target in MetadataFolder(self._metadata).targets(group).targets:
            return
        edit = self.roles.edit(group)
        with edit.edit_targets(group) as targets:
            targets.targets[target] = TargetFile.from_data(target, data, ["sha256"])
        edit.publish()
        _log.info("published %s for %s", reference.identity, group)


def _pieces(folder: Path, manifest: FileList) -> Iterator[tuple[bytes, str]]:
    for relative, entry in manifest.files.items():
        with (folder / relative).open("rb") as file:
            for digest in entry.chunks:
                yield file.read(CHUNK_BYTES), digest


def _describe(bundle: Bundle, group: str, suffix: str) -> tuple[BundleRef, bytes]:
    name = check_name(bundle.manifest.name, "bundle")
    version = check_name(bundle.manifest.version, "version")
    if version.endswith(TIMING_SUFFIX.removesuffix(".json")):
        raise ConfigError("version", expected="no '.trial' at its end, which marks what is only timed", actual=version)
    manifest = _read_manifest(bundle.path / MANIFEST_NAME, bundle.digest)
    target = f"{group}/{name}-{version}{suffix}"
    return BundleRef(name=name, version=version, target=target, sha256=bundle.digest), manifest


def _describe_agent(payload: Payload, group: str) -> tuple[BundleRef, bytes]:
    version = check_name(payload.manifest.version, "version")
    manifest = _read_manifest(payload.path / AGENT_MANIFEST_NAME, payload.digest)
    target = f"{group}/agent-{version}-{check_name(payload.manifest.tag, 'tag')}.agent.json"
    return BundleRef(name=AGENT_NAME, version=version, target=target, sha256=payload.digest), manifest


def _read_manifest(path: Path, sha256: str) -> bytes:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise BundleIntegrityError(f"{path.parent}: the manifest changed", expected=sha256, actual=digest)
    return data
