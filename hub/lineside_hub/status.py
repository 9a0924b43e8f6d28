"""What the hub needs a person for: signatures that expire, keys that are missing, devices that wait."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lineside_hub.config import HubConfig, load_config
from lineside_hub.database import Database
from lineside_hub.frames.rows import open_rows
from lineside_hub.repository import WARN_BEFORE_DAYS, Repository
from lineside_hub.secure import CONFIG_NAME, old_access_list
from lineside_link.config import LinkConfig
from lineside_runtime.errors import LinesideError


class RoleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One role of the repository.

    Attributes:
        role: ``root``, ``targets``, ``snapshot``, ``timestamp`` or a group.
        expires: When devices stop to accept it, ISO 8601.
        days_left: Until then.
        renewed_by: ``hub`` or ``person``.
        threshold: How many keys must sign.
        keys: Ids of the keys that count.
        at_hand: How many of their private halves lie in this folder; encrypted ones count as well.
    """

    role: str
    expires: str
    days_left: float
    renewed_by: str
    threshold: int
    keys: tuple[str, ...]
    at_hand: int


class HubStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The hub at a glance.

    Attributes:
        epoch: Of its database.
        gen: The last generation of a wish.
        devices: How many the hub has heard of.
        devices_up: How many of them are connected.
        results: How many are committed.
        frames: How many are here.
        frames_bytes: Of them.
        warnings: What a person must do, most urgent first; empty if nothing.
        roles: Of the repository.
    """

    epoch: int
    gen: int
    devices: int
    devices_up: int
    results: int
    frames: int
    frames_bytes: int
    warnings: tuple[str, ...]
    roles: tuple[RoleStatus, ...]


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
        for expiry in repository.expiries()
        for threshold, keyids, at_hand in [repository.keys_of(expiry.role)]
    )


def warnings(folder: Path | str) -> list[str]:
    """Returns what a person must do about signatures and access list, most urgent first; an empty list if nothing.

    Args:
        folder: The hub's folder.

    Raises:
        InputNotFoundError: There is no repository.
    """
    return _warnings(role_statuses(Repository.open(folder)), old_access_list(folder))


def _warnings(roles: tuple[RoleStatus, ...], access: str | None) -> list[str]:
    said = [access] if access is not None else []
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
    """Reads everything.

    Args:
        folder: The hub's folder.

    Raises:
        InputNotFoundError: There is no repository.
        DatabaseError: The database can't be read.
    """
    roles = role_statuses(Repository.open(folder))
    database = Database.open(Path(folder))
    try:
        [counts] = database.query("SELECT count(*) AS devices, coalesce(sum(up), 0) AS up FROM devices")
        [gen] = database.query("SELECT value FROM meta WHERE key = 'gen'")
        frames, frames_bytes = _frames(Path(folder), database)
        return HubStatus(
            epoch=database.epoch,
            gen=int(gen["value"]),
            devices=int(counts["devices"]),
            devices_up=int(counts["up"]),
            results=database.count_results(),
            frames=frames,
            frames_bytes=frames_bytes,
            warnings=tuple(_warnings(roles, old_access_list(folder))),
            roles=roles,
        )
    finally:
        database.close()


def _frames(folder: Path, database: Database) -> tuple[int, int]:
    """Without a hub.toml, as where only the library is used, frames can only be in the folder."""
    path = folder / CONFIG_NAME
    link = LinkConfig(url="mqtt://127.0.0.1", site="none")
    config = load_config(path) if path.is_file() else HubConfig(folder=str(folder), link=link)
    rows = open_rows(config, database)
    try:
        return rows.total()
    finally:
        rows.close()


def try_warnings(folder: Path | str) -> list[str]:
    """As `warnings`, where a repository that can't be read is itself the warning: for listings of other things."""
    try:
        return warnings(folder)
    except LinesideError as error:
        return [str(error)]
