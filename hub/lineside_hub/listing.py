"""What a person wants to know of the fleet at a glance."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lineside_hub.database import Database
from lineside_link.messages import Reported, Up, decode


class DeviceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One device.

    Attributes:
        name: Its name.
        up: Whether it is connected, by its own word or its last will.
        group: The group that it says it belongs to.
        board: The board that it says it is.
        state: State of its update machine.
        installed: ``name@version`` of the bundle that it runs; empty for none.
        wanted: ``name@version`` of the bundle that it was last told to run; empty for none.
        error: Why the wanted bundle doesn't run; empty if it does.
        results: How many of its results the hub has.
    """

    name: str
    up: bool
    group: str
    board: str
    state: str
    installed: str
    wanted: str
    error: str
    results: int


def list_devices(folder: Path | str) -> list[DeviceSummary]:
    """Returns every device that the hub has heard of, by name.

    Args:
        folder: The hub's folder.

    Raises:
        InputNotFoundError: There is no hub's database.
    """
    database = Database.open(Path(folder))
    try:
        rows = database.query(
            "SELECT d.device, d.up, d.birth, d.reported, "
            "(SELECT count(*) FROM results r WHERE r.device = d.device) AS results FROM devices d ORDER BY d.device"
        )
    finally:
        database.close()
    return [_summary(row["device"], bool(row["up"]), row["birth"], row["reported"], row["results"]) for row in rows]


def _summary(name: str, up: bool, birth: str | None, reported: str | None, results: int) -> DeviceSummary:
    born = decode(birth.encode(), Up) if birth else Up(device=name, up=False, boot_id="")
    said = decode(reported.encode(), Reported) if reported else Reported(device=name)
    return DeviceSummary(
        name=name,
        up=up,
        group=born.group,
        board=born.board,
        state=said.state,
        installed=said.installed.identity if said.installed else "",
        wanted=said.wanted.identity if said.wanted else "",
        error=f"[{said.error.code}] {said.error.message}" if said.error else "",
        results=results,
    )
