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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public by its documentation
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from lineside_agent.config import read_settings
from lineside_agent.deployment.self_update.payload import MANIFEST_NAME as AGENT_MANIFEST_NAME
from lineside_agent.deployment.self_update.payload import NAME as AGENT_NAME
from lineside_agent.deployment.self_update.payload import Payload
from lineside_hub.repository import root_ceremony
from lineside_hub.repository.chunks import ChunkStore, place_of
from lineside_hub.repository.keys import KeyRing
from lineside_hub.repository.lock import folder_lock
from lineside_hub.repository.metadata import (
    GROUP_LIFETIME_DAYS,
    LIFETIME_DAYS,
    ONLINE,
    TOP_LEVEL,
    MetadataFolder,
    prepare,
)
from lineside_link.messages import DESIRED_FIELD, TIMING_SUFFIX, BundleRef, ConfigRef
from lineside_link.topics import check_name
from lineside_runtime.bundle import CHUNK_BYTES, MANIFEST_NAME, Bundle, FileList
from lineside_runtime.errors import (
    BundleIntegrityError,
    ConfigError,
    InputNotFoundError,
    RolloutError,
    SignatureError,
    TargetNotFoundError,
)
from lineside_runtime.files import fsync_folder, write_atomic

_log = logging.getLogger("lineside.hub.repository")

ROOT_KEYS_MAX = 16

WARN_BEFORE_DAYS = 30
"""How long before the expiry of a role that only a person can renew the log starts to say so."""

SNAPSHOT_RENEW_BEFORE_DAYS = 4
"""Renewed after three of its seven days, so that a hub that was off for a long weekend comes back in time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Expiry:
    """When a role's metadata stops being accepted by devices.

    Attributes:
        role: Which.
        at: When.
        renewed_by: ``hub``, which has the key, or ``person``.
    """

    role: str
    at: datetime.datetime
    renewed_by: str = "person"

    @property
    def days_left(self) -> float:
        """Days until then."""
        return (self.at - datetime.datetime.now(datetime.timezone.utc)).total_seconds() / 86400


class Repository:
    """The repository of one hub. Its methods may be called from several processes; writers wait for one another.

    Attributes:
        folder: The hub's folder.
        chunks: The content of all bundles.
    """

    def __init__(self, folder: Path, *, passphrase: str | None = None) -> None:
        self.folder = folder
        self.chunks = ChunkStore(place_of(folder))
        self._metadata = folder / "metadata"
        self._offline_keys = KeyRing(folder / "keys", passphrase=passphrase)
        self._online_keys = KeyRing(folder / "online")

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
        """Makes keys and the first metadata; a run that was cut off is finished by the next.

        Args:
            folder: Made if it is not there.
            groups: Device groups to sign for; more can be added later.
            online_groups: Groups whose key stays with the hub, for a canary that a machine pushes to.
            root_keys: How many root keys to make; they can be carried to different places afterwards.
            root_threshold: How many of them must sign each later root.
            passphrase: Encrypts the keys of root, targets and groups, if given.

        Raises:
            RolloutError: There is a repository already.
            ConfigError: A group's name cannot be used, or the threshold can't be met.
        """
        if not 1 <= root_threshold <= root_keys <= ROOT_KEYS_MAX:
            raise ConfigError(
                "root threshold", expected=f"1 to {root_keys}, and at most {ROOT_KEYS_MAX} keys", actual=root_threshold
            )
        repository = cls(Path(folder), passphrase=passphrase)
        for group in (*groups, *online_groups):
            _check_group(group)
        for part in ("metadata", "targets", "chunks"):
            (repository.folder / part).mkdir(parents=True, exist_ok=True)
        fsync_folder(repository.folder)
        with folder_lock(repository.folder):
            if (repository._metadata / "timestamp.json").exists():
                action = "Open it, or choose another folder; add_group adds a group."
                raise RolloutError(f"{folder} holds a repository already", action=action)
            repository._write_first(root_keys, root_threshold)
            rings = dict.fromkeys(groups, repository._offline_keys)
            repository._delegate(rings | dict.fromkeys(online_groups, repository._online_keys))
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
            raise InputNotFoundError(f"{folder} holds no repository", action="Make one first: lineside hub init.")
        return repository

    def root_bytes(self) -> bytes:
        """Returns the first root's metadata: what a device is given when it is enrolled, and trusts from then on."""
        return (self._metadata / "1.root.json").read_bytes()

    def groups(self) -> tuple[str, ...]:
        """Returns the groups that bundles can be signed for, sorted."""
        delegations = MetadataFolder(self._metadata).targets().delegations
        return tuple(sorted(delegations.roles)) if delegations and delegations.roles else ()

    def add_group(self, name: str, *, online: bool = False) -> None:
        """Makes a key for a group and delegates ``<name>/*`` to it; does nothing if that is so already.

        Args:
            name: Of the group.
            online: Whether the key stays with the hub in the clear, so that a machine may push to the group. Such a key
                is as safe as the hub is: for a canary, not for the whole line.

        Raises:
            ConfigError: The name cannot be used.
            SignatureError: The passphrase does not open the keys.
        """
        _check_group(name)
        with folder_lock(self.folder):
            if name in self.groups():
                return
            self._delegate({name: self._online_keys if online else self._offline_keys})

    def rotate_group(self, name: str, *, online: bool | None = None) -> str:
        """Gives a group a new key; the old one counts no more from the next check of each device on.

        Args:
            name: Of the group.
            online: Where the new key is kept; where the old one is if ``None``.

        Returns:
            The new key's id.

        Raises:
            RolloutError: There is no such group.
            SignatureError: The passphrase does not open the key of targets.
        """
        with folder_lock(self.folder):
            self._check_known(name)
            kept = self._online_keys.holds(name) if online is None else online
            fresh = (self._online_keys if kept else self._offline_keys).make(name)
            signers = {**self._signers(*ONLINE, Targets.type), name: [fresh]}
            edit = MetadataFolder(self._metadata, signers)
            gone = self._set_keys(edit, name, [fresh.public_key])
            with edit.edit_targets(name):
                pass
            edit.publish()
            self._discard(name, gone)
            _log.warning("the key of group %s was rotated; %s counts now", name, fresh.public_key.keyid[:12])
        return fresh.public_key.keyid

    def revoke_group(self, name: str) -> None:
        """Takes a group's delegation away: no device accepts anything for it until it is added again, with a new key.

        Args:
            name: Of the group.

        Raises:
            RolloutError: There is no such group.
            SignatureError: The passphrase does not open the key of targets.
        """
        with folder_lock(self.folder):
            self._check_known(name)
            edit = MetadataFolder(self._metadata, self._signers(*ONLINE, Targets.type))
            gone = self._set_keys(edit, name, [])
            edit.publish()
            self._discard(name, gone)
            _log.warning("group %s was revoked", name)

    def _set_keys(self, edit: MetadataFolder, name: str, keys: Sequence[Key]) -> set[str]:
        """Replaces a group's keys; without keys the delegation goes. Returns the ids that count no more."""
        with edit.edit_targets() as targets:
            if targets.delegations is None or targets.delegations.roles is None:
                raise RolloutError(f"no group {name!r}", action="Add the group first.")
            gone = set(targets.delegations.roles[name].keyids)
            for key in keys:
                targets.add_key(key, name)
            for keyid in gone:
                targets.revoke_key(keyid, name)
            if not keys:
                del targets.delegations.roles[name]
        return gone

    def _discard(self, role: str, keyids: set[str]) -> None:
        for ring in (self._online_keys, self._offline_keys):
            ring.discard(role, keyids)

    def change_root(self, change: root_ceremony.Change) -> tuple[Metadata[Root], root_ceremony.Progress]:
        """Makes the next root and signs it with the root keys at hand; published if they suffice.

        Args:
            change: Edits the next root in place.

        Returns:
            The root, and how far it is; where it is not complete, it is a draft that others must sign.

        Raises:
            ConfigError: The change can't be made.
            SignatureError: The passphrase doesn't open the keys.
        """
        with folder_lock(self.folder):
            md = root_ceremony.draft(self._metadata, change)
            if self._offline_keys.holds(Root.type):
                known = {
                    *MetadataFolder(self._metadata).root().roles[Root.type].keyids,
                    *md.signed.roles[Root.type].keyids,
                }
                at_hand = self._offline_keys.load_all(Root.type)
                root_ceremony.sign(md, [signer for signer in at_hand if signer.public_key.keyid in known])
            state = root_ceremony.progress(self._metadata, md)
            if state.complete:
                self._publish_root(md)
        return md, state

    def publish_root(self, md: Metadata[Root]) -> root_ceremony.Progress:
        """Publishes a draft that others have signed.

        Raises:
            SignatureError: It is not the next version, or signatures are missing.
        """
        with folder_lock(self.folder):
            return self._publish_root(md)

    def _publish_root(self, md: Metadata[Root]) -> root_ceremony.Progress:
        return root_ceremony.publish(self.folder, md, online=self._online_keys, offline=self._offline_keys)

    def rotate_top_level(self, *roles: str, keyid: str | None = None) -> tuple[Metadata[Root], root_ceremony.Progress]:
        """Gives top-level roles new keys.

        Args:
            roles: Of root, targets, snapshot, timestamp.
            keyid: For root with several keys: which one is replaced, by the beginning of its id; needed there.

        Raises:
            ConfigError: Several root keys and no ``keyid``, or none that begins so.
            SignatureError: The passphrase doesn't open the keys.
        """
        current = MetadataFolder(self._metadata).root()
        if Root.type in roles and keyid is None and len(current.roles[Root.type].keyids) > 1:
            raise ConfigError("root has several keys", expected="the id of the one to replace", action="Give --key.")
        if keyid is not None:
            root_ceremony.find_keyid(current, Root.type, keyid)
        fresh = {role: self._keys_of(role).make(role).public_key for role in roles}

        def change(root: Root) -> None:
            for role, key in fresh.items():
                root_ceremony.replace_keys(root, role, key, keyid=keyid if role == Root.type else None)

        return self.change_root(change)

    def publish(self, bundle: Bundle, group: str, *, trial: bool = False) -> BundleRef:
        """Verifies a bundle, stores its content and signs its manifest for a group.

        Publishing the same bundle again changes nothing, but replaces chunks that have rotted.

        Args:
            bundle: What is signed.
            group: Of the devices that it is for.
            trial: Signs it to be timed only: no device runs it. Another content of the same name takes its place.

        Raises:
            BundleIntegrityError: The bundle's files are not what its manifest says.
            RolloutError: There is no such group, or this name and version are published with another content.
            SignatureError: The passphrase does not open the group's key, or it is not the key trusted for the group.
        """
        reference, manifest = _describe(bundle, group, TIMING_SUFFIX if trial else ".json")
        bundle.verify()
        if trial:
            self.withdraw(reference.target)
        self._publish(reference, manifest, _pieces(bundle.path, bundle.manifest))
        return reference

    def withdraw(self, target: str) -> None:
        """Takes a target out of what is signed, if it is there; its chunks stay until `lineside hub prune`.

        Args:
            target: Its path.

        Raises:
            RolloutError: There is no such group.
            SignatureError: The passphrase does not open the group's key.
        """
        with folder_lock(self.folder):
            group = target.split("/")[0]
            if target in self.targets_of(group):
                self.withdraw_targets({group: [target]})

    def check_key(self, group: str) -> None:
        """Opens a group's key, before work that ends in a signature.

        Raises:
            RolloutError: There is no such group.
            InputNotFoundError: Its key is not here.
            SignatureError: The passphrase does not open it.
        """
        self._check_known(group)
        self._signers(group)

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

    def publish_config(self, data: bytes, group: str) -> ConfigRef:
        """Checks a configuration against the agent's schema and signs it for a group; the same again changes nothing.

        Args:
            data: TOML: the part of ``agent.toml`` that a hub may set.
            group: Of the devices that it is for.

        Raises:
            ConfigError: It breaks the schema; the message names the path.
            RolloutError: There is no such group.
            SignatureError: The passphrase does not open the group's key, or it is not the key trusted for the group.
        """
        read_settings(data)
        digest = hashlib.sha256(data).hexdigest()
        name = f"config-{digest[:16]}.toml"
        reference = ConfigRef(target=f"{_named(group)}/{name}", sha256=digest)
        with folder_lock(self.folder):
            self._check_known(group)
            self._write_target(group, f"{digest}.{name}", data)
            if reference.target not in MetadataFolder(self._metadata).targets(group).targets:
                edit = self._edit(group)
                with edit.edit_targets(group) as targets:
                    targets.targets[reference.target] = TargetFile.from_data(reference.target, data, ["sha256"])
                edit.publish()
                _log.info("published configuration %s for %s", digest[:12], group)
        return reference

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

    def find_agent(self, group: str, running: BundleRef) -> BundleRef | None:
        """Returns the release that a device says it runs as it was published for its group, if it was.

        Args:
            group: Of the device.
            running: As the device reports it, which doesn't know its target.

        Raises:
            RolloutError: There is no such group.
        """
        self._check_known(group)
        for target, file in MetadataFolder(self._metadata).targets(group).targets.items():
            if target.startswith(f"{group}/agent-") and file.hashes["sha256"] == running.sha256:
                return BundleRef(name=AGENT_NAME, version=running.version, target=target, sha256=running.sha256)
        return None

    def targets_of(self, group: str) -> tuple[str, ...]:
        """Returns the paths of everything that is signed for a group.

        Raises:
            RolloutError: There is no such group.
        """
        self._check_known(group)
        return tuple(MetadataFolder(self._metadata).targets(group).targets)

    def published_at(self, target: str) -> float:
        """Returns when a target's file was written, as Unix time; 0 if it is not there."""
        return max((path.stat().st_mtime for path in self._files_of(target)), default=0.0)

    def target_bytes(self, target: str, sha256: str) -> bytes:
        """Returns the content of a target.

        Raises:
            BundleIntegrityError: Its file is missing or rotten.
        """
        group, _, name = target.partition("/")
        path = self.folder / "targets" / group / f"{sha256}.{name}"
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BundleIntegrityError(f"{path} is missing or rotten", expected=sha256, action="Push it again.")
        return data

    def withdraw_targets(self, going: Mapping[str, Sequence[str]]) -> None:
        """Takes targets out of the signed metadata, and then their files; the caller holds the folder's lock.

        Args:
            going: Group to paths.

        Raises:
            SignatureError: The passphrase does not open a group's key.
        """
        if not going:
            return
        edit = self._edit(*going)
        for group, targets in going.items():
            with edit.edit_targets(group) as signed:
                for target in targets:
                    signed.targets.pop(target, None)
        edit.publish()
        for targets in going.values():
            for target in targets:
                for path in self._files_of(target):
                    path.unlink(missing_ok=True)

    def _files_of(self, target: str) -> list[Path]:
        group, _, name = target.partition("/")
        folder = self.folder / "targets" / group
        return [path for path in folder.glob(f"*.{name}") if path.name.partition(".")[2] == name]

    def sign_for_stick(self, desired: bytes, *, days: float) -> dict[str, bytes]:
        """Signs a snapshot and a timestamp that live for some days, and the hub itself newer ones with the usual life.

        Args:
            desired: The desired state that the medium carries; the medium's timestamp names its sha256.
            days: How long the medium's timestamp lives.

        Returns:
            All metadata of this state, under ``tuf/metadata/`` as a device asks for it.
        """
        with folder_lock(self.folder):
            edit = self._edit()
            snapshot = edit.open(Snapshot.type)
            prepare(Snapshot.type, snapshot, days=max(days, LIFETIME_DAYS[Snapshot.type]))
            self._sign_and_write(edit, Snapshot.type, snapshot)
            # Over the air this one stands for a moment only: the hub's own, with the usual life, follows at once.
            stick = edit.open(Timestamp.type)
            stick.signed.snapshot_meta = edit.snapshot_info
            stick.signed.unrecognized_fields[DESIRED_FIELD] = hashlib.sha256(desired).hexdigest()
            prepare(Timestamp.type, stick, days=days)
            self._sign_and_write(edit, Timestamp.type, stick)
            files = self._chain_files(edit)
            with edit.edit_timestamp() as timestamp:
                del timestamp.unrecognized_fields[DESIRED_FIELD]
        return {f"tuf/metadata/{name}": data for name, data in files.items()}

    def _sign_and_write(self, edit: MetadataFolder, role: str, md: Metadata[Any]) -> None:
        for signer in self._signers(role)[role]:
            md.sign(signer, append=True)
        edit.write(role, md)

    def _chain_files(self, edit: MetadataFolder) -> dict[str, bytes]:
        """All roots, and what the timestamp leads to."""
        names = [path.name for path in self._metadata.glob("*.root.json")]
        names += ["timestamp.json", f"{edit.timestamp().snapshot_meta.version}.snapshot.json"]
        names += [f"{info.version}.{name}" for name, info in edit.snapshot().meta.items()]
        return {name: (self._metadata / name).read_bytes() for name in names}

    def renew(self) -> None:
        """Signs timestamp, and what ages of snapshot and online groups, once more: nobody holds news back.

        The hub does this at its start and every hour. It warns of roles that only a person can renew.
        """
        with folder_lock(self.folder):
            online = [group for group in self.groups() if self._online_keys.holds(group)]
            edit = MetadataFolder(self._metadata, self._signers(*ONLINE, *online))
            for group in online:
                if _left(edit.open(group)) < datetime.timedelta(days=GROUP_LIFETIME_DAYS / 2):
                    with edit.edit_targets(group):
                        pass
            aged = _left(edit.open(Snapshot.type)) < datetime.timedelta(days=SNAPSHOT_RENEW_BEFORE_DAYS)
            # Signed by a key that counts no more: the hub was killed within a rotation.
            edit.publish(force_snapshot=aged or not edit.is_signed(Snapshot.type))
        for expiry in self.expiring():
            _log.warning(
                "the signature of %s expires at %s: devices refuse updates from then on; `lineside hub keys renew %s`",
                expiry.role,
                expiry.at.isoformat(),
                expiry.role,
            )

    def renew_offline(self, *roles: str) -> None:
        """Signs roles of persons once more, with their keys.

        Args:
            roles: Which of root, targets and the groups; all of them if none is given.

        Raises:
            InputNotFoundError: A key is not there.
            SignatureError: The passphrase does not open the keys, or root needs more keys than are here.
            RolloutError: There is no such group.
        """
        chosen = roles or (Root.type, Targets.type, *self.groups())
        rest = [role for role in chosen if role != Root.type]
        for role in rest:
            if role != Targets.type:
                self._check_known(role)
        if Root.type in chosen:
            self._offline_keys.load_all(Root.type)
            _, state = self.change_root(lambda _root: None)
            if not state.complete:
                raise SignatureError(
                    "root needs more signatures than the keys here can give",
                    expected=f"{state.old_missing} more",
                    action="Use `lineside hub keys draft`, and have the others sign it.",
                )
        if rest:
            with folder_lock(self.folder):
                edit = MetadataFolder(self._metadata, self._signers(*ONLINE, *rest))
                for role in rest:
                    with edit.edit_targets(role):
                        pass
                edit.publish()

    def expiries(self) -> list[Expiry]:
        """Returns when each role expires, and who renews it."""
        edit = MetadataFolder(self._metadata)
        own = {*ONLINE, *(group for group in self.groups() if self._online_keys.holds(group))}
        return [
            Expiry(role, edit.open(role).signed.expires, "hub" if role in own else "person")
            for role in (*TOP_LEVEL, *self.groups())
        ]

    def keys_of(self, role: str) -> tuple[int, tuple[str, ...], int]:
        """Returns a role's threshold, the ids of the keys that count, and how many key files of it lie here."""
        delegation = MetadataFolder(self._metadata).delegation(role)
        threshold, keyids = (delegation.threshold, tuple(delegation.keyids)) if delegation else (0, ())
        return threshold, keyids, len(self._keys_of(role).paths(role))

    def expiring(self, *, within_days: float = WARN_BEFORE_DAYS) -> list[Expiry]:
        """Returns the roles of persons (root, targets, groups) that expire within so many days."""
        limit = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=within_days)
        return [expiry for expiry in self.expiries() if expiry.at < limit and expiry.renewed_by == "person"]

    def _write_first(self, root_keys: int, root_threshold: int) -> None:
        for role in TOP_LEVEL:
            self._keys_of(role).ensure(role)
        while len(self._offline_keys.paths(Root.type)) < root_keys:
            self._offline_keys.make(Root.type)
        if not (self._metadata / "1.root.json").exists():
            signers = {role: self._keys_of(role).load_all(role) for role in TOP_LEVEL}
            first = MetadataFolder(self._metadata, signers)
            with first.edit_root() as root:
                for role, ring in signers.items():
                    for signer in ring:
                        root.add_key(signer.public_key, role)
                root.roles[Root.type].threshold = root_threshold

    def _signers(self, *roles: str) -> dict[str, list[CryptoSigner]]:
        """Returns the keys at hand that count for each role; those that don't only where no other is there."""
        chain = MetadataFolder(self._metadata)
        signers: dict[str, list[CryptoSigner]] = {}
        for role in roles:
            delegation = chain.delegation(role)
            at_hand = self._keys_of(role).load_all(role)
            counting = [signer for signer in at_hand if delegation and signer.public_key.keyid in delegation.keyids]
            signers[role] = counting or at_hand
        return signers

    def _edit(self, *offline: str) -> MetadataFolder:
        return MetadataFolder(self._metadata, self._signers(*ONLINE, *offline))

    def _delegate(self, groups: Mapping[str, KeyRing]) -> None:
        for group, ring in groups.items():
            ring.ensure(group)
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
        online = role in ONLINE or (role not in TOP_LEVEL and self._online_keys.holds(role))
        return self._online_keys if online else self._offline_keys

    def _check_known(self, group: str) -> None:
        if group not in self.groups():
            known = ", ".join(self.groups()) or "none yet"
            raise RolloutError(f"no group {group!r}", expected=known, actual=group, action="Add the group first.")

    def _target(self, reference: BundleRef) -> TargetFile | None:
        group = reference.target.split("/")[0]
        self._check_known(group)
        return MetadataFolder(self._metadata).targets(group).targets.get(reference.target)

    def _store(self, reference: BundleRef, manifest: bytes, pieces: Iterator[tuple[bytes, str]]) -> None:
        for data, digest in pieces:
            if self.chunks.put(data) != digest:
                raise BundleIntegrityError(f"{reference.identity}: a chunk differs from the manifest", expected=digest)
        group, _, name = reference.target.partition("/")
        self._write_target(group, f"{reference.sha256}.{name}", manifest)

    def _write_target(self, group: str, name: str, data: bytes) -> None:
        folder = self.folder / "targets" / group
        if not folder.is_dir():
            folder.mkdir(parents=True)
            fsync_folder(folder.parent)
        write_atomic(folder / name, data)


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
    manifest = (bundle.path / MANIFEST_NAME).read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    if digest != bundle.digest:
        raise BundleIntegrityError(f"{bundle.path}: the manifest changed", expected=bundle.digest, actual=digest)
    target = f"{group}/{name}-{version}{suffix}"
    return BundleRef(name=name, version=version, target=target, sha256=digest), manifest


def _describe_agent(payload: Payload, group: str) -> tuple[BundleRef, bytes]:
    version = check_name(payload.manifest.version, "version")
    manifest = (payload.path / AGENT_MANIFEST_NAME).read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    if digest != payload.digest:
        raise BundleIntegrityError(f"{payload.path}: the manifest changed", expected=payload.digest, actual=digest)
    target = f"{group}/agent-{version}-{check_name(payload.manifest.tag, 'tag')}.agent.json"
    return BundleRef(name=AGENT_NAME, version=version, target=target, sha256=digest), manifest


def _left(md: Metadata[Any]) -> datetime.timedelta:
    left: datetime.timedelta = md.signed.expires - datetime.datetime.now(datetime.timezone.utc)
    return left


def _named(group: str) -> str:
    _check_group(group)
    return group


def _check_group(name: str) -> None:
    check_name(name, "group")
    if name in TOP_LEVEL:
        raise ConfigError(f"group name {name!r}", expected="none of TUF's own roles", action="Choose another name.")
