"""Change the root: trusted keys and thresholds of the roles.

A new root is valid once enough keys of the old root *and* of the new one have signed it. If all of them are at hand,
that is one call. If several persons have them, the change is a file that they pass on: `draft`, then `sign` by each,
then `publish`. The file is TUF root metadata with the present signatures, so that other TUF tools can read and sign it.

Invariants:

- A draft changes nothing for any device before the threshold is met.
- When the keys of targets, snapshot or timestamp change, their metadata is signed by the old *and* the new keys before
  the new root appears: a device never sees a root and a timestamp that do not match.
- A private key is deleted only after it is no longer trusted.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # public by documentation
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Key, Metadata, Root, Targets
from tuf.api.serialization.json import JSONSerializer

from lineside_hub.repository.keys import KeyRing
from lineside_hub.repository.layout import METADATA
from lineside_hub.repository.metadata import ONLINE, TOP_LEVEL, MetadataFolder, prepare
from lineside_runtime.errors import BundleIntegrityError, ConfigError, InputNotFoundError, SignatureError
from lineside_runtime.files import write_atomic
from lineside_runtime.wording import counted

_log = logging.getLogger("lineside.hub.keys")

Change = Callable[[Root], None]
"""Edits the next root in place."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Signatures of a new root.

    Attributes:
        old_missing: How many more keys of the present root must sign.
        new_missing: How many more keys of the new root must sign.
    """

    version: int
    signed: tuple[str, ...]
    old_missing: int
    new_missing: int
    waiting: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether it may be published."""
        return self.old_missing == 0 and self.new_missing == 0


def draft(metadata: Path, change: Change) -> Metadata[Root]:
    """Returns the next root without signatures.

    Raises:
        ConfigError: The change can't be made, such as a threshold that no set of keys can meet.
    """
    md: Metadata[Root] = MetadataFolder(metadata).open(Root.type)
    try:
        change(md.signed)
    except ValueError as error:
        raise ConfigError(
            f"root can't be changed so: {error}", action="`lineside hub keys ls` lists the keys."
        ) from error
    prepare(Root.type, md)
    _check_reachable(md.signed)
    return md


def progress(metadata: Path, md: Metadata[Root]) -> Progress:
    """Returns the progress of a draft.

    Raises:
        SignatureError: It is not the version that comes next.
    """
    current = MetadataFolder(metadata).root()
    if md.signed.version != current.version + 1:
        raise SignatureError(
            "the draft is not of the root that comes next",
            expected=f"version {current.version + 1}",
            actual=md.signed.version,
            action="Another change was published meanwhile: make the draft again.",
        )
    both = md.signed.get_root_verification_result(current, md.signed_bytes, md.signatures)
    first, second = both.first, both.second
    waiting = sorted({*first.unsigned, *second.unsigned} - {*first.signed, *second.signed})
    return Progress(
        version=md.signed.version,
        signed=tuple(sorted(both.signed)),
        old_missing=max(0, first.missing),
        new_missing=max(0, second.missing),
        waiting=tuple(waiting),
    )


def read(path: Path) -> Metadata[Root]:
    """Reads a draft.

    Raises:
        InputNotFoundError: It is not there.
        BundleIntegrityError: It is not root metadata.
    """
    try:
        md: Metadata[Root] = Metadata.from_bytes(path.read_bytes())
    except OSError as error:
        raise InputNotFoundError(
            f"{path}: {error.strerror}", action="Make it with `lineside hub keys draft`."
        ) from error
    except RepositoryError as error:
        raise BundleIntegrityError(f"{path} is no draft of root metadata: {error}", action="Make it again.") from error
    if not isinstance(md.signed, Root):
        raise BundleIntegrityError(
            f"{path} is no draft of root metadata", actual=md.signed.type, action="Make it again."
        )
    return md


def write(path: Path, md: Metadata[Root]) -> None:
    """Writes a draft with its signatures."""
    write_atomic(path, md.to_bytes(JSONSerializer(compact=False)))


def sign(md: Metadata[Root], signers: list[CryptoSigner]) -> None:
    """Adds signatures to a draft, by keys of the new or the old root."""
    for signer in signers:
        md.sign(signer, append=True)


def publish(folder: Path, md: Metadata[Root], *, online: KeyRing, offline: KeyRing) -> Progress:
    """Publishes a draft if enough keys have signed it; the caller holds the folder's lock.

    Args:
        online: Keys of snapshot and timestamp, the new ones included.
        offline: The other keys that are at hand.

    Raises:
        SignatureError: It is not the next version, or signatures are missing.
    """
    metadata = folder / METADATA
    state = progress(metadata, md)
    if not state.complete:
        raise SignatureError(
            f"root version {state.version} lacks signatures",
            expected="enough keys of the old and of the new root",
            actual=f"{state.old_missing} of the old and {state.new_missing} of the new are missing",
            action="Have the others sign the draft with `lineside hub keys sign`.",
        )
    old = MetadataFolder(metadata).root()
    changed = [role for role in TOP_LEVEL if role != Root.type and _keys_changed(role, old, md.signed)]
    if changed:
        _sign_for_both(
            metadata, changed, old, md.signed, {role: online if role in ONLINE else offline for role in TOP_LEVEL}
        )
    MetadataFolder(metadata).write(Root.type, md)
    _log.warning("root version %d counts now, signed by %s", state.version, counted(len(state.signed), "key"))
    for role in TOP_LEVEL:
        dropped = set(old.roles[role].keyids) - set(md.signed.roles[role].keyids)
        (online if role in ONLINE else offline).discard(role, dropped)
    return state


def _sign_for_both(metadata: Path, changed: list[str], old: Root, new: Root, rings: dict[str, KeyRing]) -> None:
    """Signs the valid metadata with the keys of the old and the new root, so that both accept it."""
    signers: dict[str, list[CryptoSigner]] = {}
    for role in {*changed, *ONLINE}:
        wanted = {*old.roles[role].keyids, *new.roles[role].keyids}
        signers[role] = [signer for signer in rings[role].load_all(role) if signer.public_key.keyid in wanted]
    edit = MetadataFolder(metadata, signers)
    if Targets.type in changed:
        with edit.edit_targets():
            pass
    edit.publish(force_snapshot=True)
    for role in changed:
        _check_new_key(role, edit.open(role), new)


def _check_new_key(role: str, md: Metadata[Any], new: Root) -> None:
    try:
        new.verify_delegate(role, md.signed_bytes, md.signatures)
    except RepositoryError as error:
        action = "Bring the medium that holds it, and try again."
        raise SignatureError(f"the new key of {role!r} is not here", action=action) from error


def _keys_changed(role: str, old: Root, new: Root) -> bool:
    before, after = old.roles[role], new.roles[role]
    return set(before.keyids) != set(after.keyids) or before.threshold != after.threshold


def _check_reachable(root: Root) -> None:
    for name, role in root.roles.items():
        if not 1 <= role.threshold <= len(role.keyids):
            raise ConfigError(
                f"threshold of {name!r}",
                expected=f"1 to {len(role.keyids)}, the number of its keys",
                actual=role.threshold,
            )


# Changes of a root.


def replace_keys(root: Root, role: str, key: Key, *, keyid: str | None = None) -> None:
    """Replaces one key or all keys of a role.

    Args:
        root: Changed in place.
        keyid: The old one, by the beginning of its id; all of the role's if ``None``.
    """
    dropped = [find_keyid(root, role, keyid)] if keyid else list(root.roles[role].keyids)
    root.add_key(key, role)
    for old in dropped:
        root.revoke_key(old, role)


def find_keyid(root: Root, role: str, beginning: str) -> str:
    """Returns the key id of a role with this beginning.

    Raises:
        ConfigError: None, or several.
    """
    found = [keyid for keyid in root.roles[role].keyids if keyid.startswith(beginning)]
    if len(found) != 1:
        raise ConfigError(
            f"key {beginning!r} of {role!r}",
            expected=", ".join(keyid[:12] for keyid in root.roles[role].keyids),
            actual=f"{len(found)} that begin so",
            action="`lineside hub keys ls` lists the keys.",
        )
    return found[0]


def public_bytes(key: Key) -> bytes:
    """Returns a public key as JSON for `read_public`: TUF's format, with its id."""
    return json.dumps({"keyid": key.keyid, **key.to_dict()}, indent=1).encode()


def read_public(path: Path) -> Key:
    """Reads a public key.

    Raises:
        InputNotFoundError: It is not there.
        BundleIntegrityError: It is none.
    """
    try:
        value = json.loads(path.read_bytes())
        return SSlibKey.from_dict(value.pop("keyid"), value)
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}", action="`lineside hub keys make` makes one.") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        action = "`lineside hub keys make` makes one."
        raise BundleIntegrityError(f"{path} is no public key: {error}", action=action) from error
