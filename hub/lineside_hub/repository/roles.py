"""The roles of a repository: which keys sign for whom, until when, and how they are replaced and renewed."""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public by its documentation
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    Root,
    Snapshot,
    Targets,
)

from lineside_hub.folder_lock import folder_lock
from lineside_hub.repository import root_ceremony
from lineside_hub.repository.keys import KeyRing
from lineside_hub.repository.layout import OFFLINE_KEYS, ONLINE_KEYS, RepositoryLayout
from lineside_hub.repository.metadata import (
    GROUP_LIFETIME_DAYS,
    ONLINE,
    TOP_LEVEL,
    MetadataFolder,
)
from lineside_link.topics import check_name
from lineside_runtime.errors import (
    BundleIntegrityError,
    ConfigError,
    RolloutError,
    SignatureError,
)

_log = logging.getLogger("lineside.hub.repository")

ROOT_KEYS_MAX = 16

ADD_ACTION = "`lineside hub add-group` makes a key for a further group."

WARN_BEFORE_DAYS = 30
"""The log warns so long before the expiry of a role that only a person can renew."""

SNAPSHOT_RENEW_BEFORE_DAYS = 4
"""Renewed after three of its seven days, so that a hub that was off for a long weekend comes back in time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Expiry:
    """When a role's metadata stops being accepted by devices.

    Attributes:
        renewed_by: ``hub``, which has the key, or ``person``.
    """

    role: str
    at: datetime.datetime
    renewed_by: str = "person"

    @property
    def days_left(self) -> float:
        """Days until then."""
        return (self.at - datetime.datetime.now(datetime.timezone.utc)).total_seconds() / 86400


class RoleKeys(NamedTuple):
    """The keys of one role.

    Attributes:
        threshold: How many of them must sign.
        at_hand: How many private keys of the role lie in the hub's folder.
    """

    threshold: int
    keyids: tuple[str, ...]
    at_hand: int


class SigningRoles:
    """Root, targets, snapshot, timestamp and the groups of one repository; writers wait for one another.

    Args:
        passphrase: Opens the keys of root, targets and groups.
    """

    def __init__(self, folder: Path, *, passphrase: str | None = None) -> None:
        self.folder = folder
        self._metadata = RepositoryLayout(folder).metadata
        self._offline_keys = KeyRing(folder / OFFLINE_KEYS, passphrase=passphrase)
        self._online_keys = KeyRing(folder / ONLINE_KEYS)

    def groups(self) -> tuple[str, ...]:
        """Returns the groups that bundles can be signed for, sorted."""
        delegations = MetadataFolder(self._metadata).targets().delegations
        return tuple(sorted(delegations.roles)) if delegations and delegations.roles else ()

    def check_group(self, group: str) -> None:
        """Raises `RolloutError` if there is no such group."""
        if group not in self.groups():
            known = ", ".join(self.groups()) or "none yet"
            raise RolloutError(f"no group {group!r}", expected=known, actual=group, action=ADD_ACTION)

    def add_group(self, name: str, *, online: bool = False) -> None:
        """Makes a key for a group and delegates ``<name>/*`` to it; does nothing if that is so already.

        Args:
            online: Whether the key stays with the hub in the clear, so that a machine may push to the group. Such a key
                is as safe as the hub: for a canary, not for the whole line.

        Raises:
            RolloutError: The group is there, and its key is in the other place.
        """
        check_group_name(name)
        with folder_lock(self.folder):
            if name in self.groups():
                if self._online_keys.holds(name) != online:
                    where = ("a person", "the hub")
                    option = "--online" if online else "--offline"
                    raise RolloutError(
                        f"group {name!r} is there",
                        expected=f"a new group, or one whose key is kept by {where[online]}",
                        actual=f"its key is kept by {where[not online]}",
                        action=f"Give it a new key there: lineside hub keys rotate {name} {option}.",
                    )
                return
            self._delegate({name: self._online_keys if online else self._offline_keys})

    def create(
        self, groups: Sequence[str], online_groups: Sequence[str], *, root_keys: int, root_threshold: int
    ) -> None:
        """Makes keys and the first metadata; an interrupted run is finished by the next. The caller holds the lock."""
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
        rings = dict.fromkeys(groups, self._offline_keys)
        self._delegate(rings | dict.fromkeys(online_groups, self._online_keys))

    def _delegate(self, groups: Mapping[str, KeyRing]) -> None:
        for group, ring in groups.items():
            ring.ensure(group)
        edit = self.edit(Targets.type, *groups)
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

    def rotate_group(self, name: str, *, online: bool | None = None) -> str:
        """Gives a group a new key; devices no longer trust the old one from their next check on.

        Args:
            online: Whether the new key stays with the hub; ``None`` for where the old one is.

        Returns:
            The new key's id.
        """
        with folder_lock(self.folder):
            self.check_group(name)
            kept = self._online_keys.holds(name) if online is None else online
            fresh = (self._online_keys if kept else self._offline_keys).make(name)
            signers = {**self.signers(*ONLINE, Targets.type), name: [fresh]}
            edit = MetadataFolder(self._metadata, signers)
            dropped = self._set_keys(edit, name, [fresh.public_key])
            with edit.edit_targets(name):
                pass
            edit.publish()
            self._discard(name, dropped)
            _log.warning("the key of group %s was rotated; %s counts now", name, fresh.public_key.keyid[:12])
        return fresh.public_key.keyid

    def revoke_group(self, name: str) -> None:
        """Removes a group's delegation: devices accept nothing for it until it is added again, with a new key."""
        with folder_lock(self.folder):
            self.check_group(name)
            edit = MetadataFolder(self._metadata, self.signers(*ONLINE, Targets.type))
            dropped = self._set_keys(edit, name, [])
            edit.publish()
            self._discard(name, dropped)
            _log.warning("group %s was revoked", name)

    def _set_keys(self, edit: MetadataFolder, name: str, keys: Sequence[Key]) -> set[str]:
        """Replaces a group's keys, or removes its delegation without keys; returns the ids that lost trust."""
        with edit.edit_targets() as targets:
            if targets.delegations is None or targets.delegations.roles is None:
                raise RolloutError(f"no group {name!r}", action=ADD_ACTION)
            dropped = set(targets.delegations.roles[name].keyids)
            for key in keys:
                targets.add_key(key, name)
            for keyid in dropped:
                targets.revoke_key(keyid, name)
            if not keys:
                del targets.delegations.roles[name]
        return dropped

    def _discard(self, role: str, keyids: set[str]) -> None:
        for ring in (self._online_keys, self._offline_keys):
            ring.discard(role, keyids)

    def change_root(self, change: root_ceremony.Change) -> tuple[Metadata[Root], root_ceremony.Progress]:
        """Makes the next root and signs it with the root keys at hand; published if they suffice.

        Returns:
            The root and its progress; an incomplete one is a draft that others must sign.
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
        """Publishes a draft that others have signed."""
        with folder_lock(self.folder):
            return self._publish_root(md)

    def _publish_root(self, md: Metadata[Root]) -> root_ceremony.Progress:
        return root_ceremony.publish(self.folder, md, online=self._online_keys, offline=self._offline_keys)

    def rotate_top_level(self, *roles: str, keyid: str | None = None) -> tuple[Metadata[Root], root_ceremony.Progress]:
        """Gives top-level roles new keys.

        Args:
            roles: Of root, targets, snapshot, timestamp.
            keyid: With several root keys, the one that is replaced, by the beginning of its id.
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

    def renew(self) -> None:
        """Renews the timestamp, and snapshot and online groups before they expire.

        The hub does this at its start and every hour. It warns of roles that only a person can renew.
        """
        with folder_lock(self.folder):
            online = [group for group in self.groups() if self._online_keys.holds(group)]
            edit = MetadataFolder(self._metadata, self.signers(*ONLINE, *online))
            for group in online:
                if _left(edit.open(group)) < datetime.timedelta(days=GROUP_LIFETIME_DAYS / 2):
                    with edit.edit_targets(group):
                        pass
            aged = _left(edit.open(Snapshot.type)) < datetime.timedelta(days=SNAPSHOT_RENEW_BEFORE_DAYS)
            # Unsigned by trusted keys: the hub was killed within a rotation.
            edit.publish(force_snapshot=aged or not edit.is_signed(Snapshot.type))
        for expiry in self.expiring():
            _log.warning(
                "the signature of %s expires at %s: devices refuse updates from then on; `lineside hub keys renew %s`",
                expiry.role,
                expiry.at.isoformat(),
                expiry.role,
            )

    def renew_offline(self, *roles: str) -> None:
        """Renews roles of persons, with their keys.

        Args:
            roles: Which of root, targets and the groups; all of them if none is given.
        """
        chosen = roles or (Root.type, Targets.type, *self.groups())
        rest = [role for role in chosen if role != Root.type]
        for role in rest:
            if role != Targets.type:
                self.check_group(role)
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
                edit = MetadataFolder(self._metadata, self.signers(*ONLINE, *rest))
                for role in rest:
                    with edit.edit_targets(role):
                        pass
                edit.publish()

    def expiries(self) -> list[Expiry]:
        """Returns expiry and renewer of each role."""
        edit = MetadataFolder(self._metadata)
        own = {*ONLINE, *(group for group in self.groups() if self._online_keys.holds(group))}
        return [
            Expiry(role, edit.open(role).signed.expires, "hub" if role in own else "person")
            for role in (*TOP_LEVEL, *self.groups())
        ]

    def expiring(self) -> list[Expiry]:
        """Returns the roles of persons (root, targets, groups) that expire within `WARN_BEFORE_DAYS`."""
        limit = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=WARN_BEFORE_DAYS)
        return [expiry for expiry in self.expiries() if expiry.at < limit and expiry.renewed_by == "person"]

    def keys_of(self, role: str) -> RoleKeys:
        """Returns the keys of a role."""
        delegation = MetadataFolder(self._metadata).delegation(role)
        threshold, keyids = (delegation.threshold, tuple(delegation.keyids)) if delegation else (0, ())
        return RoleKeys(threshold, keyids, len(self._keys_of(role).paths(role)))

    def is_online(self, group: str) -> bool:
        """Returns whether the hub itself holds the key of a group, in the clear."""
        return self._online_keys.holds(group)

    def check_key(self, group: str) -> None:
        """Opens a group's key, before work that ends in a signature."""
        self.check_group(group)
        self.signers(group)

    def edit(self, *offline: str) -> MetadataFolder:
        """Opens the metadata for a change of these roles, snapshot and timestamp."""
        return MetadataFolder(self._metadata, self.signers(*ONLINE, *offline))

    def signers(self, *roles: str) -> dict[str, list[CryptoSigner]]:
        """Returns the trusted keys at hand of each role; untrusted ones only if there are no others."""
        chain = MetadataFolder(self._metadata)
        signers: dict[str, list[CryptoSigner]] = {}
        for role in roles:
            delegation = chain.delegation(role)
            at_hand = self._keys_of(role).load_all(role)
            counting = [signer for signer in at_hand if delegation and signer.public_key.keyid in delegation.keyids]
            signers[role] = counting or at_hand
        return signers

    def _keys_of(self, role: str) -> KeyRing:
        online = role in ONLINE or (role not in TOP_LEVEL and self._online_keys.holds(role))
        return self._online_keys if online else self._offline_keys


def _left(md: Metadata[Any]) -> datetime.timedelta:
    left: datetime.timedelta = md.signed.expires - datetime.datetime.now(datetime.timezone.utc)
    return left


def check_group_name(name: str) -> None:
    """Raises `ConfigError` if a group can't have this name."""
    check_name(name, "group")
    if name in TOP_LEVEL:
        raise ConfigError(f"group name {name!r}", expected="none of TUF's own roles", action="Choose another name.")
