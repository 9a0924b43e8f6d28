"""Pushing: sign a bundle for a group and make it the wish, whether or not the hub's process runs.

The process notices the new row in the database and publishes it; if it doesn't run, it does so when it starts.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lineside_hub.database import Database
from lineside_hub.repository import Repository
from lineside_link.messages import BundleRef, Desired
from lineside_link.topics import check_name
from lineside_runtime.bundle import open_bundle


@dataclasses.dataclass(frozen=True, slots=True)
class PushResult:
    """What a push made.

    Attributes:
        ref: The signed bundle.
        gen: Generation of the wish.
        epoch: The hub's epoch.
    """

    ref: BundleRef
    gen: int
    epoch: int


def push(folder: Path | str, bundle_path: Path | str, *, group: str, passphrase: str | None = None) -> PushResult:
    """Verifies, signs and publishes a bundle, and makes it what the group should run.

    Args:
        folder: The hub's folder.
        bundle_path: A bundle's folder.
        group: A group of the repository.
        passphrase: Opens the group's key, if it was made with one.

    Raises:
        InputNotFoundError: No repository, bundle or key there.
        BundleFormatError: Not a bundle.
        BundleIntegrityError: The bundle is damaged.
        RolloutError: No such group, or the same name and version is published with another content.
        SignatureError: The passphrase does not open the group's key.
    """
    repository = Repository.open(folder, passphrase=passphrase)
    # publish reads and compares every file; once is enough.
    ref = repository.publish(open_bundle(bundle_path, verify=False), group)
    return _wish(Path(folder), f"g/{group}", ref)


def set_desired(folder: Path | str, ref: BundleRef, *, device: str | None = None) -> PushResult:
    """Makes an already published bundle the wish of its group, or of one device; so one goes back.

    Args:
        folder: The hub's folder.
        ref: From `Repository.find` or an earlier push.
        device: One device instead of the whole group.

    Raises:
        RolloutError: There is no such group.
        TargetNotFoundError: It is not published, or not with this content.
    """
    group = ref.target.split("/")[0]
    published = Repository.open(folder).find(group, name=ref.name, version=ref.version, sha256=ref.sha256)
    return _wish(Path(folder), f"d/{check_name(device, 'device')}" if device else f"g/{group}", published)


def _wish(folder: Path, scope: str, ref: BundleRef) -> PushResult:
    database = Database.open(folder)
    try:
        desired: Desired = database.set_desired(scope, ref)
    finally:
        database.close()
    return PushResult(ref, desired.gen, desired.epoch)
