"""Move a device to another group.

Three things depend on the group:

- **Desired states.** The rollouts count the device to its new group from now on; a desired state of the old group's
  rollout is withdrawn in their next step.
- **The broker's access list.** The device may read the new group's desired state and no longer the old one's.
- **Trust.** Each group's bundles are signed by its own key, and a device refuses what is signed for another group than
  the one in its own ``agent.toml``. The hub cannot change that: an attacker with the broker and the key of one group
  must not take over the devices of another. So a person sets ``group`` on the device; until then it keeps what it runs.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from lineside_hub.config import IDENTITY_NAME
from lineside_hub.identity.secure_site import reassign
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database, TimelineEvent
from lineside_link.topics import check_name
from lineside_runtime.errors import RolloutError


class GroupMove(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a move.

    Attributes:
        before: The previous group; empty if the hub did not know the device.
        access_list: The broker's new access list, which it reads on SIGHUP; ``None`` without an authority.
        said: The group that the device reports; while it differs, its ``agent.toml`` must be changed.
    """

    device: str
    before: str
    group: str
    access_list: Path | None
    said: str


def move(folder: Path | str, device: str, group: str) -> GroupMove:
    """Moves a device to another group; done again it changes nothing.

    Raises:
        RolloutError: The group or the device is not known.
        ConfigError: A name cannot be used.
        InputNotFoundError: There is no repository.
    """
    hub = Path(folder).resolve()
    check_name(device, "device")
    Repository.open(hub).roles.check_group(group)
    # The list first: with the new list alone a device reads less, with the new group alone it would wait for ever.
    access_list = reassign(hub, device, group=group) if (hub / IDENTITY_NAME / "ca.pem").exists() else None
    with Database.open(hub) as database:
        said, before = groups_of(database, device)
        if access_list is None and not said:
            raise RolloutError(f"no device {device!r} has reported itself", action="`lineside fleet ls` lists them.")
        if before != group:
            _assign(database, device, group=group, before=before)
    return GroupMove(device=device, before=before, group=group, access_list=access_list, said=said)


def groups_of(database: Database, device: str) -> tuple[str, str]:
    """Returns the reported and the assigned group of a device; empty if the hub does not know it."""
    rows = database.query(
        "SELECT d.group_name AS said, coalesce(a.group_name, d.group_name) AS counts "
        "FROM devices d LEFT JOIN assignments a ON a.device = d.device WHERE d.device = ?",
        device,
    )
    return (rows[0]["said"], rows[0]["counts"]) if rows else ("", "")


def device_groups(database: Database) -> dict[str, str]:
    """Returns the group of each device that the hub knows: by assignment, else by its own report."""
    rows = database.query(
        "SELECT d.device, coalesce(a.group_name, d.group_name) AS counts "
        "FROM devices d LEFT JOIN assignments a ON a.device = d.device ORDER BY d.device"
    )
    return {row["device"]: row["counts"] for row in rows}


def _assign(database: Database, device: str, *, group: str, before: str) -> None:
    now_ns = time.time_ns()
    with database.transaction() as connection:
        connection.execute("INSERT OR REPLACE INTO assignments VALUES (?, ?, ?)", (device, group, now_ns))
        own = database.desired_state(f"d/{device}")
        if own is not None and not own.withdrawn:
            # It is signed for the old group.
            database.withdraw(device, own, group)
        detail = f"from {before or 'no group'} to {group}"
        database.add_event(TimelineEvent(at_ns=now_ns, device=device, kind="moved", detail=detail))
