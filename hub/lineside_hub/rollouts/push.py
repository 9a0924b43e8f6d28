"""Sign an artifact for a group and begin its rollout, whether or not the hub runs.

The hub's process publishes the new rows of the database, at once or when it starts.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypedDict, TypeVar

import msgspec

from lineside_agent.config import InspectConfig, read_settings
from lineside_agent.deployment.bundle_check import check_names
from lineside_agent.deployment.self_update.payload import Payload, open_payload
from lineside_hub.config import IDENTITY_NAME, folder_config_or_default
from lineside_hub.fleet.groups import groups_of
from lineside_hub.identity.authority import enrolled_devices
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database, TimelineEvent
from lineside_hub.rollouts.machine import Artifact, RolloutPlan
from lineside_hub.rollouts.runner import CONFIG, Rollouts, as_target, members, plan_for
from lineside_link.messages import BundleRef, ConfigRef, Desired, MaintenanceWindow, Reported, decode
from lineside_link.topics import check_name
from lineside_runtime.bundle import Manifest, open_bundle, parse_manifest
from lineside_runtime.errors import AccuracyGateError, ConfigError, InputNotFoundError, RolloutError

if TYPE_CHECKING:
    from typing_extensions import Unpack  # typing's own from 3.11 on, which is where this runs


log = logging.getLogger("lineside.hub")

Ref = TypeVar("Ref", BundleRef, ConfigRef)


@dataclasses.dataclass(frozen=True, slots=True)
class PushResult(Generic[Ref]):
    """Outcome of a push.

    Attributes:
        gen: Generation of the first desired state.
        rollout: Identifies the rollout; empty for a single device.
        devices: The first devices; empty if the whole group is first.
    """

    ref: Ref
    gen: int
    epoch: int
    rollout: str = ""
    devices: tuple[str, ...] = ()


class PlanOptions(TypedDict, total=False):
    """Options of a rollout plan; the defaults depend on the size of the group.

    Attributes:
        canary: Number or names of the first devices; one if the group has several devices and no phases are given.
        phases: Shares of the group after them, rising to 1.
        max_failed: Share of failures above which the group is rolled back; 0.1, and 1 for a group of one. It is always
            rolled back if all devices fail.
        healthy_for_s: How long a stage must be healthy before the next begins; 60.
        window: When devices may activate it; the plant's window of ``hub.toml``.
    """

    canary: int | tuple[str, ...] | None
    phases: Sequence[float]
    max_failed: float | None
    healthy_for_s: float | None
    window: MaintenanceWindow | None


def push(
    folder: Path | str,
    bundle_path: Path | str,
    *,
    group: str,
    passphrase: str | None = None,
    override: str = "",
    sign_only: bool = False,
    **plan: Unpack[PlanOptions],
) -> PushResult[BundleRef]:
    """Verifies, signs and publishes a bundle, and starts its rollout to a group.

    Args:
        passphrase: Opens the group's key, if it was made with one.
        override: The gate that the caller ignores, for the timeline; empty for none.
        sign_only: Starts no rollout; `published_bundles.start` does.
        plan: See `PlanOptions`.

    Raises:
        InputNotFoundError: No repository, bundle or key there.
        BundleFormatError: Not a bundle.
        BundleIntegrityError: The bundle is damaged.
        RolloutError: No such group or canary, the same name and version is published with another content, a figure of
            the plan is out of range, or the hub refuses the terms of its data.
        SignatureError: The passphrase does not open the group's key.
    """
    repository = Repository.open(folder, passphrase=passphrase)
    bundle = open_bundle(bundle_path, verify=False)
    check_data_terms(bundle.manifest, folder_config_or_default(folder).data_terms)
    with Database.open(Path(folder)) as database:
        made = plan_for(len(members(database, group)), **plan)
        ref = repository.publish(bundle, group)  # which verifies every file
        record_override(database, ref, group, override)
        if sign_only:
            return PushResult(ref, 0, database.epoch)
        return roll_out(database, ref, group, made)


def baseline_override(found: str, *, allowed: bool) -> str:
    """Returns what the timeline says of a bundle that has not passed the baseline gate; empty if it has.

    Args:
        found: Why it has not; empty if it has.

    Raises:
        AccuracyGateError: It has not, and that is not ``allowed`` (``--below-baseline``).
    """
    if found and not allowed:
        raise AccuracyGateError(
            "nothing shows that the model is better than one that always gives the same answer",
            expected="a bundle that passes the baseline gate",
            actual=found,
            action="Make it again with annotated frames (lineside optimize --data DIR), trained longer if it fails "
            "there; lineside push --below-baseline pushes it anyway, with an entry in the timeline.",
        )
    return f"baseline: {found}" if found else ""


def record_override(database: Database, ref: BundleRef, group: str, override: str) -> None:
    """Records in the timeline which gate was ignored for a group; nothing if ``override`` is empty."""
    if override:
        detail = f"{override}; signed for {group}"
        event = TimelineEvent(at_ns=time.time_ns(), device="", kind="override", bundle=ref.identity, detail=detail)
        with database.transaction():
            database.add_event(event)


def check_data_terms(manifest: Manifest, policy: str) -> None:
    """Warns of restricted training data, or refuses the bundle.

    Args:
        policy: See `HubConfig`.

    Raises:
        RolloutError: The policy refuses it.
    """
    restricted = manifest.restricted_data
    stated = bool(manifest.data_terms)
    if policy == "accept" or (stated and not restricted):
        return
    found = ", ".join(f"{name} ({terms})" for name, terms in restricted.items()) or "no data_terms in the manifest"
    if policy == "refuse":
        raise RolloutError(
            f"the terms of the data that {manifest.identity} was trained on",
            expected="a licence for each data set, as hub.toml says data_terms = 'refuse'",
            actual=found,
            action="Train on data whose terms allow your use, or state them (lineside optimize --data-terms).",
        )
    if restricted:
        log.warning(
            "%s was trained on data without a licence or for research only: %s; read its model card before you use it "
            "commercially (data_terms in hub.toml refuses such bundles, or accepts them without this warning)",
            manifest.identity,
            found,
        )


def push_agent(
    folder: Path | str,
    payload_path: Path | str,
    *,
    group: str,
    passphrase: str | None = None,
    before: Path | str | None = None,
    **plan: Unpack[PlanOptions],
) -> PushResult[BundleRef]:
    """As `push`, for a payload of the agent, from ``lineside agent pack``.

    The first agent that a hub pushes replaces one that was installed by hand. So that the group can be rolled back to
    that, it is signed too and becomes the group's desired state first: given as ``before``, or found among the
    published agents if all devices report the same.

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
    with Database.open(Path(folder)) as database:
        made = plan_for(len(members(database, group)), **plan)
        first = installed_agent(repository, database, group, open_payload(before) if before is not None else None)
        ref = repository.publish_agent(open_payload(payload_path), group)
        if first is not None:
            _set_base(database, group, first, "agent")
        return roll_out(database, ref, group, made, kind="agent")


def push_config(
    folder: Path | str,
    data: bytes,
    *,
    group: str,
    passphrase: str | None = None,
    **plan: Unpack[PlanOptions],
) -> PushResult[ConfigRef]:
    """Checks, signs and publishes a configuration, and starts its rollout to a group.

    A group without one first gets an empty configuration (``agent.toml`` alone), signed by the same key, for a
    roll-back.

    Args:
        data: TOML: the part of ``agent.toml`` that a hub may set.
        passphrase: Opens the group's key, if it was made with one.
        plan: See `PlanOptions`.

    Raises:
        InputNotFoundError: No repository or key there.
        ConfigError: It breaks the agent's schema, or names a type or a variant that the group's bundle hasn't; the
            message names the path.
        RolloutError: As for `push`.
        SignatureError: The passphrase does not open the group's key.
    """
    inspect = msgspec.convert(read_settings(data).get("inspect", {}), InspectConfig)
    repository = Repository.open(folder, passphrase=passphrase)
    with Database.open(Path(folder)) as database:
        made = plan_for(len(members(database, group)), **plan)
        _check_names(repository, database, group, inspect)
        reference = repository.publish_config(data, group)
        known = database.desired_state(f"g/{group}")
        if known is None or known.config is None:
            _set_base(database, group, repository.publish_config(b"", group), CONFIG)
        begun = roll_out(database, as_target(reference), group, made, kind=CONFIG)
        return PushResult(reference, begun.gen, begun.epoch, begun.rollout, begun.devices)


def _check_names(repository: Repository, database: Database, group: str, inspect: InspectConfig) -> None:
    """Checks that a bundle which the hub gave the group has what a configuration names: each device would refuse it.

    Raises:
        ConfigError: None has.
    """
    desired = database.desired_state(f"g/{group}")
    given = [one.target for one in Rollouts(database).list(unfinished=True, group=group) if one.kind == "bundle"]
    if desired is not None and desired.bundle is not None:
        given.append(desired.bundle)
    refusal = None
    for ref in given:
        manifest = parse_manifest(repository.target_bytes(ref.target, ref.sha256))
        try:
            check_names(inspect, manifest)
            return
        except ConfigError as error:
            refusal = error
    if refusal is not None:
        raise refusal


def _set_base(database: Database, group: str, base: BundleRef | ConfigRef, kind: Artifact) -> None:
    """Stores what the group has already, so that a device that leaves a canary finds it."""
    with database.transaction():
        known = database.desired_state(f"g/{group}") or Desired(epoch=0, gen=0)
        desired = msgspec.structs.replace(known, **{kind: base}, windows=known.windows | {kind: None})
        database.add_desired(f"g/{group}", desired, rollout=known.rollout, artifact=kind)


def set_desired(folder: Path | str, ref: BundleRef, *, device: str | None = None) -> PushResult[BundleRef]:
    """Makes a published bundle the desired state of its group or of one device, as for a roll-back.

    Args:
        ref: From `Repository.find` or an earlier push.
        device: One device instead of the whole group, which the hub need not know yet; `release` lets it follow its
            group again.

    Raises:
        RolloutError: There is no such group.
        TargetNotFoundError: It is not published, or not with this content.
    """
    group = ref.target.split("/")[0]
    published = Repository.open(folder).find(group, name=ref.name, version=ref.version, sha256=ref.sha256)
    with Database.open(Path(folder)) as database:
        if device is None:
            return roll_out(database, published, group, RolloutPlan(max_failed=1.0))
        desired = database.set_desired(f"d/{check_name(device, 'device')}", published)
        return PushResult(published, desired.gen, desired.epoch)


def check_device(folder: Path | str, device: str, *, group: str) -> None:
    """Checks that a group has a device: one that has reported, or is enrolled.

    Raises:
        RolloutError: It has not.
    """
    enrolled = enrolled_devices(Path(folder) / IDENTITY_NAME)
    with Database.open(Path(folder)) as database:
        known = {*members(database, group), *(name for name, of in enrolled.items() if of == group)}
    if device not in known:
        raise RolloutError(
            f"no device {device!r} in group {group!r}",
            expected=", ".join(sorted(known)) or "none yet",
            actual=device,
            action="`lineside fleet ls` lists the devices and their groups.",
        )


def release(folder: Path | str, device: str) -> bool:
    """Withdraws the own desired state of a device, so that it follows its group; returns whether it had its own.

    Raises:
        InputNotFoundError: The hub does not know the device.
        RolloutError: An unfinished rollout gave it: without it, the rollout would wait for the device for ever.
    """
    with Database.open(Path(folder)) as database, database.transaction():
        own = database.desired_state(f"d/{device}")
        known = own is not None or database.query("SELECT 1 FROM devices WHERE device = ?", device)
        if not known and device not in enrolled_devices(Path(folder) / IDENTITY_NAME):
            raise InputNotFoundError(f"the hub has not heard of {device!r}", action="`lineside fleet ls` lists them.")
        if own is None or own.withdrawn:
            return False
        for rollout in Rollouts(database).list(unfinished=True):
            if device in rollout.targeted:
                raise RolloutError(
                    f"the desired state of {device} belongs to rollout {rollout.id}, which has not ended",
                    expected="one that `lineside push --device` gave",
                    actual=f"one of {rollout.id}, {rollout.state}",
                    action=f"Wait for it, or abort it: lineside fleet rollout abort {rollout.id}",
                )
        database.withdraw(device, own, groups_of(database, device)[1])
        return True


def roll_out(
    database: Database, ref: BundleRef, group: str, plan: RolloutPlan, *, kind: Artifact = "bundle"
) -> PushResult[BundleRef]:
    """Starts a rollout of a published artifact."""
    rollouts = Rollouts(database)
    begun = rollouts.start(group, target=ref, plan=plan, kind=kind)
    scopes = [f"d/{name}" for name in begun.targeted] or [f"g/{group}"]
    states: list[Desired] = [desired for scope in scopes if (desired := database.desired_state(scope)) is not None]
    gen = states[0].gen if states and states[0].rollout == begun.id else 0
    return PushResult(ref, gen, database.epoch, begun.id, begun.targeted)


def installed_agent(repository: Repository, database: Database, group: str, given: Payload | None) -> BundleRef | None:
    """Returns the signed agent that a group's devices run, if the group has no desired agent.

    An agent that was installed by hand or with the image is not signed by the hub, and a device fetches nothing
    unsigned: without a signed one the group could not be rolled back from its first pushed agent. Devices report the
    digest of their payload, so that the hub recognizes it.

    Args:
        given: The payload that the devices run, if a person gives it.

    Returns:
        ``None`` if the group has a desired agent, or none is known.

    Raises:
        RolloutError: A device reports another agent than ``given``.
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
    """Returns the reported agents of a group's devices; those that do not run from a slot report none."""
    found = {}
    for name in members(database, group):
        [row] = database.query("SELECT reported FROM devices WHERE device = ?", name)
        report = decode(row["reported"].encode(), Reported) if row["reported"] else None
        if report is not None and report.agent is not None and report.agent.installed is not None:
            found[name] = report.agent.installed
    return found
