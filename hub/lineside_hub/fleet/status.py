"""Status of the hub, and tasks for a person: expiring signatures and certificates, quotas."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path

import msgspec

from lineside_hub.config import IDENTITY_NAME, HubConfig, folder_config_or_default
from lineside_hub.fleet.groups import device_groups
from lineside_hub.fleet.usage import QUOTAS, quota_of, read_usage
from lineside_hub.folder_lock import is_running
from lineside_hub.identity.expiries import certificate_warnings
from lineside_hub.identity.secure_site import old_access_list
from lineside_hub.link_monitor import link_warning
from lineside_hub.repository.repository import Repository
from lineside_hub.repository.roles import WARN_BEFORE_DAYS
from lineside_hub.results.database import NAME as DATABASE_NAME
from lineside_hub.results.database import Database
from lineside_hub.results.frames.rows import open_rows
from lineside_hub.results.queries import count_by_device
from lineside_runtime.errors import LinesideError, StoreError
from lineside_runtime.wording import counted


class RoleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One role of the repository.

    Attributes:
        role: ``root``, ``targets``, ``snapshot``, ``timestamp`` or a group.
        expires: When devices no longer accept it, ISO 8601.
        renewed_by: ``hub`` or ``person``.
        threshold: How many keys must sign.
        at_hand: Number of their private keys in this folder, encrypted ones included.
    """

    role: str
    expires: str
    days_left: float
    renewed_by: str
    threshold: int
    keys: tuple[str, ...]
    at_hand: int


class DeviceUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Disk space of one device at the hub.

    Attributes:
        results_share: Share of its quota for results; at 1 they are refused. 0 without a quota.
        frames_share: Share of its quota for frames; near 1 its oldest are deleted.
        interactions_share: As ``results_share``, for interactions.
    """

    device: str
    results_bytes: int
    results_share: float
    frames_bytes: int
    frames_share: float
    interactions_bytes: int = 0
    interactions_share: float = 0.0


class HubStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of the hub.

    Attributes:
        gen: The last generation of a desired state.
        results: ``None`` where their database cannot be reached, as ``frames`` and ``frames_bytes``.
        usage: The devices with most disk space, largest first; at most `USAGE_MAX`.
        warnings: Tasks for a person, most urgent first.
    """

    epoch: int
    gen: int
    devices: int
    devices_up: int
    results: int | None
    frames: int | None
    frames_bytes: int | None
    usage: tuple[DeviceUsage, ...]
    warnings: tuple[str, ...]
    roles: tuple[RoleStatus, ...]


USAGE_MAX = 10
"""Devices in `HubStatus.usage`."""

USAGE_WARN_SHARE = 0.8
"""Share of a device's quota for results from which on it is in the warnings."""


def role_statuses(repository: Repository) -> tuple[RoleStatus, ...]:
    """Returns every role with its keys and expiry."""
    return tuple(
        RoleStatus(
            role=expiry.role,
            expires=expiry.at.isoformat(),
            days_left=round(expiry.days_left, 2),
            renewed_by=expiry.renewed_by,
            threshold=threshold,
            keys=keyids,
            at_hand=at_hand,
        )
        for expiry in repository.roles.expiries()
        for threshold, keyids, at_hand in [repository.roles.keys_of(expiry.role)]
    )


def warnings(folder: Path | str) -> list[str]:
    """Returns tasks for a person about signatures, certificates, access list and quotas, most urgent first.

    Raises:
        InputNotFoundError: There is no repository.
    """
    devices, roles = [], role_statuses(Repository.open(folder))
    if (Path(folder) / DATABASE_NAME).is_file():
        with Database.open(Path(folder)) as database:
            devices = _device_warnings(database, folder_config_or_default(folder)) + _group_warnings(database, roles)
    return _warnings(roles, _identity_warnings(folder), devices)


_SHARED_NAMES = """
SELECT DISTINCT first.device FROM events AS first
JOIN events AS other ON other.device = first.device AND other.kind = 'up' AND other.id > first.id
JOIN events AS again ON again.device = first.device AND again.kind = 'up' AND again.id > other.id
WHERE first.kind = 'up' AND first.at_ns > ? AND other.detail <> first.detail AND again.detail = first.detail
ORDER BY first.device
"""
"""Devices of which one start of the agent was there before and after another: two agents have one name."""

SHARED_NAME_S = 600.0
"""Time that `_SHARED_NAMES` looks back."""


def _device_warnings(database: Database, config: HubConfig) -> list[str]:
    """Returns a sentence for each device whose name two agents have, or that has nearly used a quota."""
    shared = database.query(_SHARED_NAMES, time.time_ns() - int(SHARED_NAME_S * 1e9))
    return [
        f"two agents connect as {row['device']} in turn: give each device its own name and certificate"
        for row in shared
    ] + [
        f"{device} has sent {count / 1e9:.2f} of {most / 1e9:g} GB of {stream}"
        + (" and is refused: " if count >= most else ": ")
        + f"raise results.{key} in hub.toml and restart the hub, or find out why it sends so much"
        for stream, key in QUOTAS.items()
        for most in [quota_of(config.results, stream)]
        for device, count in sorted(read_usage(database, stream).items())
        if most and count >= USAGE_WARN_SHARE * most
    ]


def _group_warnings(database: Database, roles: tuple[RoleStatus, ...]) -> list[str]:
    """Returns a sentence for each group that has devices and no key, because it was revoked or never added."""
    signed = {role.role for role in roles}
    return [
        f"{group} has {counted(count, 'device')} and no key, so that nothing can be pushed to it: "
        f"lineside hub add-group {group}, or lineside fleet move each device"
        for group, count in sorted(Counter(device_groups(database).values()).items())
        if group and group not in signed
    ]


def _identity_warnings(folder: Path | str) -> list[str]:
    """Returns tasks about the connection to the broker, the access list and the certificates."""
    access = old_access_list(folder)
    link = link_warning(Path(folder))
    return [*filter(None, (link, access)), *certificate_warnings(Path(folder) / IDENTITY_NAME)]


def _warnings(roles: tuple[RoleStatus, ...], identities: list[str], full: list[str]) -> list[str]:
    said = [*identities, *full]
    for role in sorted(roles, key=lambda role: role.days_left):
        ends = (
            f"{role.role} has expired" if role.days_left <= 0 else f"{role.role} expires in {role.days_left:.0f} days"
        )
        if role.renewed_by == "person" and role.days_left < WARN_BEFORE_DAYS:
            said.append(f"{ends}: lineside hub keys renew {role.role}")
        elif role.days_left <= 0:
            said.append(f"{ends}: start the hub, it renews by itself")
    return said


def read_status(folder: Path | str) -> HubStatus:
    """Reads the status of a hub.

    Raises:
        InputNotFoundError: There is no repository.
    """
    roles = role_statuses(Repository.open(folder))
    with Database.open(Path(folder)) as database:
        [counts] = database.query("SELECT count(*) AS devices, coalesce(sum(up), 0) AS up FROM devices")
        [gen] = database.query("SELECT value FROM meta WHERE key = 'gen'")
        config = folder_config_or_default(folder)
        (results, frames, frames_bytes), of_devices, unreachable = _stored(config, database)
        devices = _device_warnings(database, config) + _group_warnings(database, roles)
        return HubStatus(
            epoch=database.epoch,
            gen=int(gen["value"]),
            devices=int(counts["devices"]),
            devices_up=int(counts["up"]),
            results=results,
            frames=frames,
            frames_bytes=frames_bytes,
            usage=_usage(config, database, of_devices),
            warnings=(*unreachable, *_warnings(roles, _identity_warnings(folder), devices)),
            roles=roles,
        )


def _stored(
    config: HubConfig, database: Database
) -> tuple[tuple[int, int, int] | tuple[None, None, None], dict[str, int], list[str]]:
    """Returns the number of results, that of frames and their bytes; the bytes by device; why they are not known."""
    try:
        results = sum(counts.results for counts in count_by_device(config).values())
        with contextlib.closing(open_rows(config, database)) as rows:
            return (results, *rows.total()), dict(rows.devices_above(0)), []
    except StoreError as error:
        return (None, None, None), {}, [f"results and frames are not counted: {error}"]


def _usage(config: HubConfig, database: Database, frames: dict[str, int]) -> tuple[DeviceUsage, ...]:
    """Returns the usage of the largest devices.

    Args:
        frames: Bytes by device.
    """
    results, interactions = read_usage(database), read_usage(database, "interactions")

    def share(count: int, most: int) -> float:
        return round(count / most, 3) if most else 0.0

    usage = [
        DeviceUsage(
            device=device,
            results_bytes=results.get(device, 0),
            results_share=share(results.get(device, 0), config.results.device_max_bytes),
            interactions_bytes=interactions.get(device, 0),
            interactions_share=share(interactions.get(device, 0), config.results.device_max_interaction_bytes),
            frames_bytes=frames.get(device, 0),
            frames_share=share(frames.get(device, 0), config.frames.device_max_bytes),
        )
        for device in results.keys() | frames.keys()
    ]
    usage.sort(key=lambda used: (-used.results_bytes - used.frames_bytes, used.device))
    return tuple(usage[:USAGE_MAX])


def try_warnings(folder: Path | str) -> list[str]:
    """As `warnings`; a repository that can't be read becomes a warning."""
    try:
        return warnings(folder)
    except LinesideError as error:
        return [str(error)]


def unheard_reason(folder: Path) -> str:
    """Returns why nobody knows which devices are connected, and no rollout goes on; empty if the hub hears them.

    Unlike `warnings`, it says so of a hub that a person has ended, too.
    """
    return link_warning(folder) or ("" if is_running(folder) else "the hub does not run: start it")
