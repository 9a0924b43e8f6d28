"""Published bundles: which there are, what their files say, and rollouts of them without signing anything anew.

Whoever starts a rollout here needs no offline key: devices run only what the key of their group has signed. For a group
whose key stays with the hub (a canary), a bundle that was signed for another group is signed here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lineside_hub.config import folder_config_or_default
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts.machine import Rollout, RolloutPlan
from lineside_hub.rollouts.push import (
    PlanOptions,
    PushResult,
    baseline_override,
    check_data_terms,
    record_override,
    roll_out,
)
from lineside_hub.rollouts.runner import Rollouts, members, plan_for
from lineside_link.messages import TIMING_SUFFIX, BundleRef
from lineside_runtime.bundle import Bundle, Manifest, parse_manifest
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import (
    BundleError,
    BundleIntegrityError,
    RolloutError,
    SignatureError,
    TargetNotFoundError,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack  # typing's own from 3.11 on, which is where this runs

TEXT_MAX_BYTES = 4 << 20
"""Largest file of a bundle that `read_text` returns."""


class PublishedBundle(msgspec.Struct, frozen=True, kw_only=True):
    """One published bundle.

    Attributes:
        ref: Of one of its targets.
        groups: That it is signed for.
        published_at_s: Unix time of the first signature.
    """

    ref: BundleRef
    groups: tuple[str, ...]
    published_at_s: float


class _Gate(msgspec.Struct, frozen=True):
    """A gate in a bundle's report, as far as it is read here."""

    name: str
    status: str
    detail: str = ""


class _GateReport(msgspec.Struct, frozen=True):
    """The gates of a bundle's report."""

    gates: tuple[_Gate, ...] = ()


def list_published(folder: Path | str) -> list[PublishedBundle]:
    """Returns the published bundles, newest first.

    Raises:
        InputNotFoundError: There is no repository.
    """
    repository = Repository.open(folder)
    found: dict[str, PublishedBundle] = {}
    for group in repository.groups():
        for target, sha256 in repository.hashes_of(group).items():
            if target.endswith((TIMING_SUFFIX, ".agent.json")) or not target.endswith(".json"):
                continue
            known = found.get(sha256)
            if known is None:
                try:
                    manifest = parse_manifest(repository.target_bytes(target, sha256))
                except BundleError:
                    continue  # `lineside hub status` and the next push tell of a damaged one
                ref = BundleRef(name=manifest.name, version=manifest.version, target=target, sha256=sha256)
                found[sha256] = PublishedBundle(
                    ref=ref, groups=(group,), published_at_s=repository.published_at(target)
                )
            else:
                at_s = min(known.published_at_s, repository.published_at(target))
                found[sha256] = msgspec.structs.replace(known, groups=(*known.groups, group), published_at_s=at_s)
    return sorted(found.values(), key=lambda one: (-one.published_at_s, one.ref.identity))


def find_published(folder: Path | str, identity: str) -> PublishedBundle:
    """Returns a published bundle by its ``name@version``.

    Raises:
        TargetNotFoundError: There is none, or groups have different contents under this name and version.
    """
    found = [one for one in list_published(folder) if one.ref.identity == identity]
    if len(found) == 1:
        return found[0]
    groups = "; ".join(", ".join(one.groups) for one in found)
    raise TargetNotFoundError(
        f"{identity} is not published" if not found else f"{identity} is not the same for all groups: {groups}",
        action="Push it: lineside push BUNDLE --group GROUP --sign-only.",
    )


def write_deployed(folder: Path | str, group: str, place: Path) -> Bundle:
    """Writes the bundle that a group is to run into a folder, and opens it there.

    Raises:
        InputNotFoundError: There is no repository.
        RolloutError: No such group, or it has no bundle.
        BundleIntegrityError: A chunk is missing or damaged.
    """
    repository = Repository.open(folder)
    repository.roles.check_group(group)
    with Database.open(Path(folder)) as database:
        desired = database.desired_state(f"g/{group}")
    if desired is None or desired.bundle is None:
        raise RolloutError(
            f"group {group!r} has no bundle", expected="a group that a bundle was pushed to", action="Push one first."
        )
    return repository.write_bundle(desired.bundle, place)


def read_manifest(repository: Repository, ref: BundleRef) -> Manifest:
    """Returns the manifest of a published bundle.

    Raises:
        BundleIntegrityError: Its file is missing or damaged.
    """
    return parse_manifest(repository.target_bytes(ref.target, ref.sha256))


def read_text(repository: Repository, manifest: Manifest, name: str) -> str:
    """Returns a text file of a published bundle; empty if the bundle has none of this name.

    Raises:
        BundleIntegrityError: A chunk is missing or damaged, or the file is larger than `TEXT_MAX_BYTES`.
    """
    entry = manifest.files.get(name)
    if entry is None:
        return ""
    if entry.size > TEXT_MAX_BYTES:
        raise BundleIntegrityError(f"{name} of {manifest.identity}", expected=f"{TEXT_MAX_BYTES} bytes at most")
    return b"".join(repository.chunks.pieces(entry, manifest.identity)).decode(errors="replace")


def start(
    folder: Path | str,
    bundle: PublishedBundle,
    *,
    group: str,
    may_sign: bool = False,
    below_baseline: bool = False,
    sign_only: bool = False,
    passphrase: str | None = None,
    **plan: Unpack[PlanOptions],
) -> PushResult[BundleRef]:
    """Starts a rollout of a published bundle to a group.

    A group that it is signed for, or that was given it before, gets it whatever its accuracy: an override was recorded
    then, and nothing may block the way back.

    Args:
        may_sign: Whether the group's offline key may sign it, if it was signed for other groups only.
        below_baseline: Whether a group that has never had it may get it though it has not passed the baseline gate.
        sign_only: Signs it and starts no rollout.
        passphrase: Opens the group's key, if it was made with one.
        plan: See `PlanOptions`.

    Raises:
        RolloutError: No such group or canary, a figure of the plan is out of range, or the hub refuses the terms of its
            data.
        AccuracyGateError: It has not passed the baseline gate, and ``below_baseline`` is false.
        SignatureError: It is not signed for the group, whose key is offline or not opened by the passphrase.
        InputNotFoundError: The group's key is not here.
    """
    repository = Repository.open(folder, passphrase=passphrase)
    repository.roles.check_group(group)
    with Database.open(Path(folder)) as database:
        made = plan_for(len(members(database, group)), **plan)
        if group in bundle.groups:
            ref = repository.find(group, name=bundle.ref.name, version=bundle.ref.version, sha256=bundle.ref.sha256)
        elif may_sign or repository.roles.is_online(group):
            manifest = read_manifest(repository, bundle.ref)
            check_data_terms(manifest, folder_config_or_default(folder).data_terms)
            had = any(one.target.sha256 == bundle.ref.sha256 for one in Rollouts(database).list(group=group))
            found = "" if had else _baseline_shortfall(repository, manifest, database)
            override = baseline_override(found, allowed=below_baseline)
            ref = repository.sign_for(bundle.ref, group)
            record_override(database, ref, group, override)
        else:
            raise SignatureError(
                f"{bundle.ref.identity} is not signed for {group!r}, whose key is not with the hub",
                expected="a signature of the group's key",
                actual=", ".join(bundle.groups),
                action=f"Run where the key is: lineside push {bundle.ref.identity} --group {group} --sign-only "
                f"--hub {folder}",
            )
        if sign_only:
            return PushResult(ref, 0, database.epoch)
        return roll_out(database, ref, group, made)


def _baseline_shortfall(repository: Repository, manifest: Manifest, database: Database) -> str:
    """Returns why a published bundle has not passed the baseline gate, by its reports; empty if it has.

    A report from before the gate, or of another maker, says nothing: then what was recorded for another group counts.
    """
    folders = [f"{entry.path}/" for entry in manifest.several] or [""]
    shortfalls = [_reported_shortfall(read_text(repository, manifest, f"{folder}report.json")) for folder in folders]
    recorded = [event for event in database.events(kind="override") if event.bundle == manifest.identity]
    if None in shortfalls and recorded:
        shortfalls.append(f"as recorded before: {recorded[-1].detail}")
    return "; ".join(filter(None, shortfalls))


def _reported_shortfall(text: str) -> str | None:
    """Returns the detail of a baseline gate that was not passed, empty if it was; ``None`` if none is reported."""
    try:
        report = decode_json(text.encode(), type=_GateReport)
    except msgspec.DecodeError:
        return None
    for gate in report.gates:
        if gate.name == "baseline":
            return "" if gate.status == "passed" else gate.detail or gate.status
    return None


def roll_back(folder: Path | str, rollout_id: str) -> Rollout:
    """Gives a group again what it had before a rollout that has ended, at once and whole.

    Raises:
        RolloutError: There is no such rollout, it still runs, or the group had nothing before.
        TargetNotFoundError: What it had is no longer published.
    """
    with Database.open(Path(folder)) as database:
        rollouts = Rollouts(database)
        known = rollouts.get(rollout_id)
        if known.unfinished:
            raise RolloutError(
                f"rollout {rollout_id} has not ended", action="Abort it, which restores what was before."
            )
        if known.before is None:
            raise RolloutError(f"{known.group!r} had no {known.kind} before rollout {rollout_id}", action="")
        if known.before.target not in Repository.open(folder).targets_of(known.group):
            raise TargetNotFoundError(f"{known.before.identity} is no longer published for {known.group!r}")
        return rollouts.start(
            known.group, target=known.before, plan=RolloutPlan(max_failed=1.0, healthy_for_s=0), kind=known.kind
        )
