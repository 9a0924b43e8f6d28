"""Pushing: sign a bundle for a group and begin its rollout, whether or not the hub's process runs.

The process notices the new rows in the database and publishes them; if it doesn't run, it does so when it starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from lineside_agent.self_update.payload import open_payload
from lineside_hub.database import Database
from lineside_hub.repository import Repository
from lineside_hub.rollout import Kind, Plan
from lineside_hub.rollouts import Rollouts, members, plan_for
from lineside_link.messages import BundleRef, ConfigRef, Desired
from lineside_link.topics import check_name
from lineside_runtime.bundle import open_bundle


@dataclasses.dataclass(frozen=True, slots=True)
class PushResult:
    """What a push made.

    Attributes:
        ref: The signed bundle.
        gen: Generation of the wish, or of the rollout's beginning.
        epoch: The hub's epoch.
        rollout: Identifies the rollout; empty for a single device.
        devices: Which devices were given the wish before the group; empty where the whole group has it.
    """

    ref: BundleRef
    gen: int
    epoch: int
    rollout: str = ""
    devices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigPushed:
    """What the push of a configuration made.

    Attributes:
        ref: The signed configuration.
        gen: Generation of the wish.
        epoch: The hub's epoch.
    """

    ref: ConfigRef
    gen: int
    epoch: int


def push(
    folder: Path | str,
    bundle_path: Path | str,
    *,
    group: str,
    passphrase: str | None = None,
    canary: int | tuple[str, ...] | None = None,
    phases: Sequence[float] = (),
    max_failed: float | None = None,
    healthy_for_s: float | None = None,
) -> PushResult:
    """Verifies, signs and publishes a bundle, and begins to roll it out to a group.

    Args:
        folder: The hub's folder.
        bundle_path: A bundle's folder.
        group: A group of the repository.
        passphrase: Opens the group's key, if it was made with one.
        canary: How many devices come first, or which; one if the group has several devices and no phases are given.
        phases: Shares of the group that come after that, rising to 1.
        max_failed: Share of failures at which the group goes back; 0.1, and 1 (never) for a group of one.
        healthy_for_s: How long a stage must be well before the next begins; 60.

    Raises:
        InputNotFoundError: No repository, bundle or key there.
        BundleFormatError: Not a bundle.
        BundleIntegrityError: The bundle is damaged.
        RolloutError: No such group or canary, the same name and version is published with another content, or a
            figure of the plan is out of range.
        SignatureError: The passphrase does not open the group's key.
    """
    repository = Repository.open(folder, passphrase=passphrase)
    database = Database.open(Path(folder))
    try:
        known = len(members(database, group))
        plan = plan_for(known, canary=canary, phases=phases, max_failed=max_failed, healthy_for_s=healthy_for_s)
        # publish reads and compares every file; once is enough.
        ref = repository.publish(open_bundle(bundle_path, verify=False), group)
        return _roll_out(database, ref, group, plan)
    finally:
        database.close()


def push_agent(
    folder: Path | str,
    payload_path: Path | str,
    *,
    group: str,
    passphrase: str | None = None,
    canary: int | tuple[str, ...] | None = None,
    phases: Sequence[float] = (),
    max_failed: float | None = None,
    healthy_for_s: float | None = None,
) -> PushResult:
    """As `push`, for the agent itself: an agent's payload, which ``lineside agent pack`` made.

    Args:
        folder: The hub's folder.
        payload_path: The payload's folder.
        group: A group of the repository.
        passphrase: As for `push`.
        canary: As for `push`.
        phases: As for `push`.
        max_failed: As for `push`.
        healthy_for_s: As for `push`.

    Raises:
        InputNotFoundError: No repository, payload or key there.
        BundleFormatError: Not a payload.
        BundleIntegrityError: The payload is damaged.
        RolloutError: As for `push`.
        SignatureError: As for `push`.
    """
    repository = Repository.open(folder, passphrase=passphrase)
    with closing(Database.open(Path(folder))) as database:
        known = len(members(database, group))
        plan = plan_for(known, canary=canary, phases=phases, max_failed=max_failed, healthy_for_s=healthy_for_s)
        ref = repository.publish_agent(open_payload(payload_path), group)
        return _roll_out(database, ref, group, plan, kind="agent")


def push_config(folder: Path | str, data: bytes, *, group: str, passphrase: str | None = None) -> ConfigPushed:
    """Checks, signs and publishes a configuration, and makes it what the whole group follows.

    Args:
        folder: The hub's folder.
        data: TOML: the part of ``agent.toml`` that a hub may set.
        group: A group of the repository.
        passphrase: Opens the group's key, if it was made with one.

    Raises:
        InputNotFoundError: No repository or key there.
        ConfigError: It breaks the agent's schema; the message names the path.
        RolloutError: No such group.
        SignatureError: The passphrase does not open the group's key.
    """
    reference = Repository.open(folder, passphrase=passphrase).publish_config(data, group)
    database = Database.open(Path(folder))
    try:
        with database.transaction():
            known = database.wish(f"g/{group}")
            wish = Desired(epoch=0, gen=0) if known is None else known
            made = database.add_wish(
                f"g/{group}", msgspec.structs.replace(wish, config=reference), rollout=wish.rollout
            )
            return ConfigPushed(reference, made.gen, made.epoch)
    finally:
        database.close()


def set_desired(folder: Path | str, ref: BundleRef, *, device: str | None = None) -> PushResult:
    """Makes an already published bundle the wish of its group, or of one device; so one goes back.

    Args:
        folder: The hub's folder.
        ref: From `Repository.find` or an earlier push.
        device: One device instead of the whole group; `release` lets it follow its group again.

    Raises:
        RolloutError: There is no such group.
        TargetNotFoundError: It is not published, or not with this content.
    """
    group = ref.target.split("/")[0]
    published = Repository.open(folder).find(group, name=ref.name, version=ref.version, sha256=ref.sha256)
    database = Database.open(Path(folder))
    try:
        if device is None:
            return _roll_out(database, published, group, Plan(max_failed=1.0))
        desired = database.set_desired(f"d/{check_name(device, 'device')}", published)
        return PushResult(published, desired.gen, desired.epoch)
    finally:
        database.close()


def release(folder: Path | str, device: str) -> bool:
    """Lets a device that was given a wish of its own follow its group again.

    Args:
        folder: The hub's folder.
        device: Its name.

    Returns:
        Whether it had one.
    """
    database = Database.open(Path(folder))
    try:
        with database.transaction():
            own = database.wish(f"d/{device}")
            if own is None or own.withdrawn:
                return False
            database.add_wish(f"d/{device}", msgspec.structs.replace(own, withdrawn=True), rollout=own.rollout)
            return True
    finally:
        database.close()


def _roll_out(database: Database, ref: BundleRef, group: str, plan: Plan, *, kind: Kind = "bundle") -> PushResult:
    rollouts = Rollouts(database)
    begun = rollouts.start(group, target=ref, plan=plan, kind=kind)
    scopes = [f"d/{name}" for name in begun.wished] or [f"g/{group}"]
    wishes: list[Desired] = [wish for scope in scopes if (wish := database.wish(scope)) is not None]
    gen = wishes[0].gen if wishes and wishes[0].rollout == begun.id else 0
    return PushResult(ref, gen, database.epoch, begun.id, begun.wished)
