"""TUF metadata on disk, read along the chain that a device trusts.

Invariants:

- Valid is what ``timestamp.json`` leads to: it names the snapshot's version, and that names the versions of the targets
  roles. Other files are left over from an interrupted run and are overwritten.
- ``timestamp.json`` is the only file that is replaced; it is written last, by one rename. So a device sees the old or
  the new state, and never a mixture.
- Root is the exception of the specification: ``N+1.root.json`` is valid as soon as it exists.

Versions, expiries and signatures are python-tuf's (`tuf.repository.Repository`); this class adds the files.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public by its documentation
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Key, Metadata, MetaFile, Role, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer
from tuf.repository import Repository as TufRepository

from lineside_runtime.errors import BundleIntegrityError, InputNotFoundError, SignatureError
from lineside_runtime.files import write_atomic

TOP_LEVEL = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
ONLINE = (Snapshot.type, Timestamp.type)
LIFETIME_DAYS = {Root.type: 365, Targets.type: 365, Snapshot.type: 7, Timestamp.type: 1}
GROUP_LIFETIME_DAYS = 90

_FIRST: dict[str, type[Root | Targets | Snapshot | Timestamp]] = {
    Root.type: Root,
    Snapshot.type: Snapshot,
    Timestamp.type: Timestamp,
}


class MetadataFolder(TufRepository):
    """One change of the metadata: change roles with python-tuf's ``edit_…``, then `publish`.

    Args:
        folder: Holds ``N.<role>.json`` and ``timestamp.json``.
        signers: Role to the key or keys that sign it; only roles that are edited need one.
    """

    def __init__(
        self, folder: Path, signers: Mapping[str, CryptoSigner | Sequence[CryptoSigner]] | None = None
    ) -> None:
        self._folder = folder
        self._signers = {role: _listed(given) for role, given in (signers or {}).items()}
        self._edited: dict[str, Metadata[Any]] = {}

    def open(self, role: str) -> Metadata[Any]:
        """Returns the valid metadata of a role, with the changes of this edit; a new role starts at version 0."""
        if role in self._edited:
            return copy.deepcopy(self._edited[role])
        path = self.path_of(role)
        if path is None:
            first: Metadata[Any] = Metadata(_FIRST.get(role, Targets)())
            first.signed.version = 0
            return first
        return _read(path)

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Signs and writes the next version of a role; called by the ``edit_…`` methods."""
        prepare(role, md)
        for signer in self._signers[role]:
            md.sign(signer, append=True)
        self._check_signature(role, md)
        self.write(role, md)

    def write(self, role: str, md: Metadata[Any]) -> None:
        """Writes signed metadata."""
        name = "timestamp.json" if role == Timestamp.type else f"{md.signed.version}.{role}.json"
        write_atomic(self._folder / name, md.to_bytes(JSONSerializer(compact=False)))
        self._edited[role] = md

    def delegation(self, role: str) -> Role | None:
        """Returns the trusted keys and the threshold of a role; ``None`` if it is not delegated."""
        if role in TOP_LEVEL:
            return self.root().roles.get(role)
        delegations = self.targets().delegations
        return (delegations.roles or {}).get(role) if delegations else None

    def is_signed(self, role: str) -> bool:
        """Whether the valid metadata of a role is signed by its trusted keys."""
        try:
            self._check_signature(role, self.open(role))
        except (SignatureError, InputNotFoundError):
            return False
        return True

    def publish(self, *, force_snapshot: bool = False) -> None:
        """Writes the snapshot if a targets role changed, and then the timestamp, which makes everything valid."""
        self.do_snapshot(force_snapshot)
        self.do_timestamp(force=True)

    @property
    def targets_infos(self) -> dict[str, MetaFile]:
        """The targets roles that this edit changed."""
        return {f"{role}.json": _meta_file(md) for role, md in self._edited.items() if md.signed.type == Targets.type}

    @property
    def snapshot_info(self) -> MetaFile:
        """The snapshot for the timestamp."""
        return _meta_file(self.open(Snapshot.type))

    def public_key(self, role: str) -> Key:
        """Returns the public key with which this edit signs a role."""
        return self._signers[role][0].public_key

    def path_of(self, role: str) -> Path | None:
        """Returns the valid file of a role, or ``None`` if it has none."""
        if role == Root.type:
            return self._last_root()
        timestamp = self._folder / "timestamp.json"
        if not timestamp.exists():
            return None
        if role == Timestamp.type:
            return timestamp
        if role == Snapshot.type:
            return self._folder / f"{self.timestamp().snapshot_meta.version}.snapshot.json"
        info = self.snapshot().meta.get(f"{role}.json")
        return self._folder / f"{info.version}.{role}.json" if info else None

    def _last_root(self) -> Path | None:
        version = 0
        while (self._folder / f"{version + 1}.root.json").exists():
            version += 1
        return self._folder / f"{version}.root.json" if version else None

    def _check_signature(self, role: str, md: Metadata[Any]) -> None:
        delegator = self.root() if role in TOP_LEVEL else self.targets()
        if role == Root.type:
            delegator = md.signed
        try:
            delegator.verify_delegate(role, md.signed_bytes, md.signatures)
        except (RepositoryError, ValueError) as error:
            raise SignatureError(f"the key at hand is not the one that is trusted for {role!r}") from error


def prepare(role: str, md: Metadata[Any], *, days: float | None = None) -> None:
    """Changes metadata to the next version, with a new expiry and without signatures.

    Args:
        md: Changed in place.
        days: How long it lives, instead of the role's own time.
    """
    md.signed.version += 1
    lifetime = LIFETIME_DAYS.get(role, GROUP_LIFETIME_DAYS) if days is None else days
    md.signed.expires = _now() + datetime.timedelta(days=lifetime)
    if role == Root.type:
        md.signed.consistent_snapshot = True
    md.signatures.clear()


def _listed(given: CryptoSigner | Sequence[CryptoSigner]) -> list[CryptoSigner]:
    return [given] if isinstance(given, CryptoSigner) else list(given)


def _read(path: Path) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(path.read_bytes())
    except FileNotFoundError as error:
        raise InputNotFoundError(f"{path} is missing", action="Restore the repository from a backup.") from error
    except RepositoryError as error:
        action = "Restore the repository from a backup."
        raise BundleIntegrityError(f"{path} is not readable as TUF metadata", action=action) from error


def _meta_file(md: Metadata[Any]) -> MetaFile:
    return MetaFile.from_data(md.signed.version, md.to_bytes(JSONSerializer(compact=False)), ["sha256"])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
