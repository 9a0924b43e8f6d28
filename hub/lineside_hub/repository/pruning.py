"""Delete targets, chunks and metadata that no device can need.

Kept are the desired states of groups and devices, what devices report as installed or previous, and the newest versions
of each bundle and configuration of each group. A target is first removed from the signed metadata, then its file is
deleted, and then the chunks that no manifest names: a kill in between leaves too many files and never too few.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import re
from pathlib import Path

from tuf.api.metadata import Snapshot

from lineside_hub.folder_lock import folder_lock
from lineside_hub.repository.layout import target_of
from lineside_hub.repository.metadata import MetadataFolder
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts.runner import Rollouts
from lineside_link.messages import TIMING_SUFFIX, Reported, decode
from lineside_runtime.bundle import MANIFEST_MAX_BYTES, parse_manifest
from lineside_runtime.errors import LinesideError

KEEP = 3
"""Newest versions of each bundle that are kept, in the order of publication."""

GRACE = datetime.timedelta(days=2)
"""Younger metadata files are kept: a device may be reading them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What is, or would be, deleted.

    Attributes:
        targets: Paths of manifests and configurations.
    """

    targets: tuple[str, ...]
    chunks: int
    metadata: tuple[str, ...]


def prune(folder: Path | str, *, keep: int = KEEP, dry_run: bool = True, passphrase: str | None = None) -> PruneReport:
    """Removes old bundles, configurations, chunks and metadata.

    Args:
        keep: How many of the newest versions of each bundle are kept in any case.
        dry_run: Whether to delete nothing.
        passphrase: Opens the keys of the groups, whose metadata is signed again.

    Raises:
        InputNotFoundError: There is no repository, or a group's key is not there.
        SignatureError: The passphrase does not open a group's key.
    """
    hub = Path(folder)
    repository = Repository.open(hub, passphrase=passphrase)
    wanted = _in_use(hub)
    with folder_lock(hub):
        going = {group: _old_targets(repository, group, wanted, keep) for group in repository.groups()}
        if not dry_run:
            repository.withdraw_targets({group: targets for group, targets in going.items() if targets})
        removed = {target for targets in going.values() for target in targets}
        chunks = _unused_chunks(repository, removed)
        metadata = _old_metadata(repository.layout.metadata)
        if not dry_run:
            for digest in chunks:
                repository.chunks.blobs.remove(digest)
            for name in metadata:
                (repository.layout.metadata / name).unlink(missing_ok=True)
    return PruneReport(targets=tuple(sorted(removed)), chunks=len(chunks), metadata=tuple(metadata))


def _in_use(hub: Path) -> set[str]:
    """Returns the targets that are desired, installed or the target of a roll-back."""
    with Database.open(hub) as database:
        states = list(database.desired_states().values())
        rollouts = Rollouts(database).list(unfinished=True)
        reports = [
            decode(row["reported"].encode(), Reported)
            for row in database.query("SELECT reported FROM devices WHERE reported IS NOT NULL")
        ]
    refs = [ref for desired in states for ref in (desired.bundle, desired.config, desired.agent)]
    refs += [ref for rollout in rollouts for ref in (rollout.target, rollout.before)]
    for report in reports:
        refs += [report.installed, report.previous, report.wanted]
        if report.agent is not None:
            refs += [report.agent.installed, report.agent.previous, report.agent.wanted]
        if report.configuration is not None:
            refs += [report.configuration.installed, report.configuration.wanted]
    return {ref.target for ref in refs if ref is not None}


def _old_targets(repository: Repository, group: str, wanted: set[str], keep: int) -> list[str]:
    """Returns the targets beyond the newest of each name."""
    kept: collections.Counter[str] = collections.Counter()
    old = []
    times = {target: repository.published_at(target) for target in repository.targets_of(group)}
    for target in sorted(times, key=lambda target: times[target], reverse=True):
        if target.endswith(TIMING_SUFFIX):  # left over, or being timed now
            if times[target] < (datetime.datetime.now() - GRACE).timestamp():
                old.append(target)
            continue
        name = target.rsplit("-", 1)[0]
        kept[name] += 1
        if kept[name] > keep and target not in wanted:
            old.append(target)
    return old


def _unused_chunks(repository: Repository, removed: set[str]) -> list[str]:
    used: set[str] = set()
    for path in repository.layout.all_manifests():
        if target_of(path) not in removed:
            used |= _chunks_of(path)
    return sorted(digest for digest in repository.chunks.blobs.names() if digest not in used)


def _chunks_of(path: Path) -> set[str]:
    with path.open("rb") as file:
        data = file.read(MANIFEST_MAX_BYTES + 1)
    try:
        files = parse_manifest(data).files.values()
    except LinesideError:
        return _digests(data)
    return {digest for entry in files for digest in entry.chunks}


def _digests(data: bytes) -> set[str]:
    """Returns everything that looks like a digest, for manifests of another kind: rather keep too much."""
    return set(re.findall(r"[0-9a-f]{64}", data.decode("utf-8", errors="replace")))


def _old_metadata(folder: Path) -> list[str]:
    """Returns old versions that are no longer valid; all roots are kept, because devices read each of them."""
    chain = MetadataFolder(folder)
    snapshot = chain.snapshot()
    named = {f"{chain.timestamp().snapshot_meta.version}.{Snapshot.type}.json"}
    named |= {f"{info.version}.{name}" for name, info in snapshot.meta.items()}
    limit = (datetime.datetime.now() - GRACE).timestamp()
    return sorted(
        path.name
        for path in folder.glob("*.*.json")
        if path.name not in named and not path.name.endswith(".root.json") and path.stat().st_mtime < limit
    )
