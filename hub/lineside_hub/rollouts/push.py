"""Sign an artifact for a group and begin its rollout, whether or not the hub runs.

The process notices the new rows in the database and publishes them; if it doesn't run, it does so when it starts.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypedDict, TypeVar

import msgspec

from lineside_agent.deployment.self_update.payload import Payload, open_payload
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database, TimelineEvent
from lineside_hub.rollouts.machine import Kind, RolloutPlan
from lineside_hub.rollouts.runner import CONFIG, Rollouts, as_target, members, plan_for
from lineside_link.messages import BundleRef, ConfigRef, Desired, Reported, decode
from lineside_link.topics import check_name
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import RolloutError

if TYPE_CHECKING:
    from typing_extensions import Unpack  # typing's own from 3.11 on, which is where this runs


Ref = TypeVar("Ref", BundleRef, ConfigRef)


@dataclasses.dataclass(frozen=True, slots=True)
class PushResult(Generic[Ref]):
    """What a push made.

    Attributes:
        gen: Generation of the desired state, or of the rollout's beginning.
        rollout: Identifies the rollout; empty for a single device.
        devices: Which devices were given the desired state before the group; empty where the whole group has it.
    """

    ref: Ref
    gen: int
    epoch: int
    rollout: str = ""
    devices: tuple[str, ...] = ()


class PlanOptions(TypedDict, total=False):
    """How a rollout is to go about it; what is left out suits the size of the group.

    Attributes:
        canary: How many devices come first, or which; one if the group has several devices and no phases are given.
        phases: Shares of the group that come after that, rising to 1.
        max_failed: Share of failures above which the group goes back; 0.1, and 1 for a group of one. It always goes
            back where all devices fail.
        healthy_for_s: How long a stage must be well before the next begins; 60.
    """

    canary: int | tuple[str, ...] | None
    phases: Sequence[float]
    max_failed: float | None
    healthy_for_s: float | None


def push(
    folder: Path | str,
    bundle_path: Path | str,
    *,
    group: str,
    passphrase: str | None = None,
    override: str = "",
    **plan: Unpack[PlanOptions],
) -> PushResult[BundleRef]:
    """Verifies, signs and publishes a bundle, and begins to roll it out to a group.

    Args:
        passphrase: Opens the group's key, if it was made with one.
        override: Which gate the caller lets the bundle pass, for the timeline; empty for none.
        plan: See `PlanOptions`.

    Raises:
        InputNotFoundError: No repository, bundle or key there.
        BundleFormatError: Not a bundle.
        BundleIntegrityError: The bundle is damaged.
        RolloutError: No such group or canary, the same name and version is published with another content, or a
            figure of the plan is out of range.
        SignatureError: The passphrase does not open the group's key.
    """
    repository = Repository.open(folder, passphrase=passphrase)
    with closing(Database.open(Path(folder))) as database:
        made = plan_for(len(members(database, group)), **plan)
        # publish reads and compares every file; once is enough.
        ref = repository.publish(open_bundle(bundle_path, verify=False), group)
        if override:
            event = TimelineEvent(
                at_ns=time.time_ns(), device="", kind="override", bundle=ref.identity, detail=override
            )
            with database.transaction():
                database.add_event(event)
        return _roll_out(database, ref, group, made)


def push_agent(
    folder: Path | str,
    payload_path: Path | str,
    *,
    group: str,
    passphrase: str | None = None,
    before: Path | str | None = None,
    **plan: Unpack[PlanOptions],
) -> PushResult[BundleRef]:
    """As `push`, for the agent itself: an agent's payload, which ``lineside agent pack`` made.

    The first agent that a hub pushes takes the place of one that was put on the boards by hand. So that the group can
    go back to that, it is signed too, and becomes what the group should run until its turn comes: given as ``before``,
    or found among what is published, where all devices report the same.

    Args:
        passphrase: As for `push`.
        plan: See `PlanOptions`.

    Raises:
        InputNotFoundError: No repository, payload or key there.
        BundleFormatError: Not a payload.
        BundleIntegrityError: The payload is damaged.
        RolloutError: As for `push`, or a device runs another agent than ``before``.
        SignatureError: As for `push`.
    """
    repository = Repository.open(folder, passphrase=passphrase)
    with closing(Database.open(Path(folder))) as database:
        made = plan_for(len(members(database, group)), **plan)
        first = base_agent(repository, database, group, open_payload(before) if before is not None else None)
        ref = repository.publish_agent(open_payload(payload_path), group)
        if first is not None:
            _set_base(database, group, first, "agent")
        return _roll_out(database, ref, group, made, kind="agent")


def push_config(
    folder: Path | str,
    data: bytes,
    *,
    group: str,
    passphrase: str | None = None,
    **plan: Unpack[PlanOptions],
) -> PushResult[ConfigRef]:
    """Checks, signs and publishes a configuration, and begins to roll it out to a group.

    A group that had none is given an empty one first, signed by the same key: ``agent.toml`` alone, to which it can go
    back.

    Args:
        data: TOML: the part of ``agent.toml`` that a hub may set.
        passphrase: Opens the group's key, if it was made with one.
        plan: See `PlanOptions`.

    Raises:
        InputNotFoundError: No repository or key there.
        ConfigError: It breaks the agent's schema; the message names the path.
        RolloutError: As for `push`.
        SignatureError: The passphrase does not open the group's key.
    """
    repository = Repository.open(folder, passphrase=passphrase)
    with closing(Database.open(Path(folder))) as database:
        made = plan_for(len(members(database, group)), **plan)
        reference = repository.publish_config(data, group)
        known = database.desired_state(f"g/{group}")
        if known is None or known.config is None:
            _set_base(database, group, repository.publish_config(b"", group), CONFIG)
        begun = _roll_out(database, as_target(reference), group, made, kind=CONFIG)
        return PushResult(reference, begun.gen, begun.epoch, begun.rollout, begun.devices)


def _set_base(database: Database, group: str, base: BundleRef | ConfigRef, kind: Kind) -> None:
    """Says what the group has without having been asked for it, so that whoever leaves a canary finds it."""
    with database.transaction():
        known = database.desired_state(f"g/{group}") or Desired(epoch=0, gen=0)
        desired = msgspec.structs.replace(known, **{kind: base})
        database.add_desired(f"g/{group}", desired, rollout=known.rollout, artifact=kind)


def set_desired(folder: Path | str, ref: BundleRef, *, device: str | None = None) -> PushResult[BundleRef]:
    """Makes an already published bundle the desired state of its group, or of one device; so one goes back.

    Args:
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
            return _roll_out(database, published, group, RolloutPlan(max_failed=1.0))
        desired = database.set_desired(f"d/{check_name(device, 'device')}", published)
        return PushResult(published, desired.gen, desired.epoch)
    finally:
        database.close()


def release(folder: Path | str, device: str) -> bool:
    """Lets a device that was given a desired state of its own follow its group again.

    Returns:
        Whether it had one.
    """
    database = Database.open(Path(folder))
    try:
        with database.transaction():
            own = database.desired_state(f"d/{device}")
            if own is None or own.withdrawn:
                return False
            database.add_desired(f"d/{device}", msgspec.structs.replace(own, withdrawn=True), rollout=own.rollout)
            return True
    finally:
        database.close()


def _roll_out(
    database: Database, ref: BundleRef, group: str, plan: RolloutPlan, *, kind: Kind = "bundle"
) -> PushResult[BundleRef]:
    rollouts = Rollouts(database)
    begun = rollouts.start(group, target=ref, plan=plan, kind=kind)
    scopes = [f"d/{name}" for name in begun.targeted] or [f"g/{group}"]
    states: list[Desired] = [desired for scope in scopes if (desired := database.desired_state(scope)) is not None]
    gen = states[0].gen if states and states[0].rollout == begun.id else 0
    return PushResult(ref, gen, database.epoch, begun.id, begun.targeted)


def base_agent(repository: Repository, database: Database, group: str, given: Payload | None) -> BundleRef | None:
    """Returns the signed release that a group's devices run, where the group has never been given one.

    Args:
        repository: Of the hub; signs what is given.
        given: The payload that the devices run, by a person's word.

    Returns:
        ``None`` where the group has an agent to go back to, or none is known.

    Raises:
        RolloutError: A device reports another agent than the one that is given.
    """
    desired = database.desired_state(f"g/{group}")
    if given is None and desired is not None and desired.agent is not None:
        return None
    running = running_agents(database, group)
    if given is not None:
        if others := sorted(name for name, ref in running.items() if ref.sha256 != given.digest):
            shown = ", ".join(f"{name} ({running[name].version})" for name in others[:10])
            raise RolloutError(
                f"not the agent that these devices run: {shown}",
                expected=given.digest,
                action="Give the payload that they were installed from, or update them by themselves first.",
            )
        return repository.publish_agent(given, group)
    known = {ref.sha256: ref for ref in running.values()}
    if len(known) != 1:
        return None
    [ref] = known.values()
    return repository.find_agent(group, ref)


def running_agents(database: Database, group: str) -> dict[str, BundleRef]:
    """Returns what agent the devices of a group say they run; those that run from no slot say nothing."""
    found = {}
    for name in members(database, group):
        [row] = database.query("SELECT reported FROM devices WHERE device = ?", name)
        report = decode(row["reported"].encode(), Reported) if row["reported"] else None
        if report is not None and report.agent is not None and report.agent.installed is not None:
            found[name] = report.agent.installed
    return found
