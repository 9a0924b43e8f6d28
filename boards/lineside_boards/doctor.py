"""Find the problems of a board. Pure: an `Inventory` and a `BoardProfile` in, `BoardFinding`s out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from lineside_boards.inventory import Inventory
from lineside_boards.profile import BoardProfile

FREE_BYTES_LEAST = 1 << 30
"""Space for a bundle, its predecessor and the records of a day without a hub."""

LIFE_USED_WARN_PERCENT = 80
"""An eMMC reports steps of ten; above 100 it is past its rated life."""


class BoardFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A problem and the action that mends it.

    An ``error`` stops the line or loses records, a ``warning`` makes it slower or shortens its life.
    """

    level: Literal["error", "warning", "note"]
    what: str
    action: str


def examine(found: Inventory, profile: BoardProfile | None, *, expects_camera: bool = True) -> tuple[BoardFinding, ...]:
    """Returns the problems, the worst first.

    Args:
        profile: Of such a board; ``None`` if there is none.
        expects_camera: Whether the kernel should see a camera.
    """
    findings = [
        *_identity(found, profile),
        *_storage(found),
        *_accelerators(found),
        *_engines(found, profile),
        *_bundle(found, profile),
        *_heat(found, profile),
        *_rest(found, profile, expects_camera=expects_camera),
    ]
    return tuple(sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.level)))


def _identity(found: Inventory, profile: BoardProfile | None) -> Iterator[BoardFinding]:
    if profile is None:
        yield BoardFinding(
            level="note",
            what=f"no profile describes {found.model} ({found.architecture})",
            action="The engines that are installed are used in their usual order. For more, write a profile: copy one "
            "of boards/lineside_boards/profiles/ and name it with --board FILE.toml.",
        )
    elif 0 < found.memory_bytes < profile.board.memory_bytes * 0.8:
        yield BoardFinding(
            level="warning",
            what=f"{found.memory_bytes / 2**30:.1f} GiB of memory, {profile.board.title} is sold with "
            f"{profile.board.memory_bytes / 2**30:.0f} GiB or more",
            action="Check `gpu_mem` and `total_mem` in config.txt, or another memory limit of the kernel.",
        )


def _storage(found: Inventory) -> Iterator[BoardFinding]:
    disk = found.storage
    name = f"the {disk.kind or 'disk'} {disk.device} {disk.name}".strip()
    if disk.errors:
        action = "Copy what you need and replace it; then `lineside board flash` a new one."
        yield BoardFinding(level="error", what=f"{name}: ext4 has counted {disk.errors} errors", action=action)
    if disk.wear == "urgent" or (disk.life_used_percent or 0) > 100:
        yield BoardFinding(level="error", what=f"{name} is at the end of its life", action="Replace it now.")
    elif disk.wear == "warning" or (disk.life_used_percent or 0) >= LIFE_USED_WARN_PERCENT:
        used = f" ({disk.life_used_percent} % used)" if disk.life_used_percent else ""
        yield BoardFinding(level="warning", what=f"{name} is worn{used}", action="Plan its replacement.")
    if 0 < disk.free_bytes < FREE_BYTES_LEAST:
        yield BoardFinding(
            level="warning",
            what=f"{disk.free_bytes / 2**20:.0f} MiB are free",
            action="Remove old images under the agent's folder, set store.keep_images, or use a larger disk.",
        )
    if disk.kind == "card":
        yield BoardFinding(
            level="note",
            what=f"the system runs from the SD card {disk.name}".rstrip(),
            action="Use a card of the High or Max Endurance kind, or NVMe: each record is fsynced.",
        )


def _accelerators(found: Inventory) -> Iterator[BoardFinding]:
    asked = bool(found.engines)
    for one in found.accelerators:
        if one.fits is False:
            yield BoardFinding(level="error", what=f"{one.name}: driver and library don't fit", action=one.advice)
        elif asked and not one.usable:
            yield BoardFinding(
                level="warning", what=f"{one.name} ({one.where}) is not used", action=f"It {one.advice}."
            )


def _engines(found: Inventory, profile: BoardProfile | None) -> Iterator[BoardFinding]:
    if not found.engines:
        return
    reports = {report.name: report for report in found.engines}
    if not any(report.available and report.devices for report in reports.values() if report.name != "null"):
        action = "Install one: pip install onnxruntime."
        yield BoardFinding(level="error", what="no engine here can run anything", action=action)
        return
    if profile is not None:
        first = profile.engines.order[0]
        report = reports.get(first)
        if report is not None and not report.available:
            how = profile.engines.install or report.install
            what = f"{first}, the best engine of this board, is not there: {report.reason}"
            yield BoardFinding(level="warning", what=what, action=f"Install it: {how}.")


def _bundle(found: Inventory, profile: BoardProfile | None) -> Iterator[BoardFinding]:
    if not found.bundle:
        return
    used = {one.engine for one in found.bundle}
    first = profile.engines.order[0] if profile is not None else ""
    for report in found.engines:
        kinds = {device.kind for device in report.devices if not (device.emulated or device.unusable)}
        if report.name == first and kinds - {"cpu"} and any(used) and first not in used:
            yield BoardFinding(
                level="warning",
                what=f"no variant of the bundle runs on {first}, the best engine of this board: "
                f"{', '.join(sorted(filter(None, used)))} inspects",
                action="`lineside bundle show BUNDLE` says how the bundle gets one.",
            )
    if not any(one.engine for one in found.bundle):
        for one in found.bundle:
            action = "Install that engine, or add a variant for this board: `lineside bundle add-variant`."
            yield BoardFinding(level="error", what=f"variant {one.variant} can't run here: {one.reason}", action=action)


def _heat(found: Inventory, profile: BoardProfile | None) -> Iterator[BoardFinding]:
    limit = profile.thermal.throttle_c if profile is not None else None
    if found.temperature_c is not None and limit is not None and found.temperature_c >= limit - 5:
        yield BoardFinding(
            level="warning",
            what=f"{found.temperature_c:.0f} °C; it slows down from {limit:.0f} °C on",
            action="Fit the active cooler, or give the housing air.",
        )
    for word in found.throttling or ():
        supply = "voltage" in word
        yield BoardFinding(
            level="error" if supply and "now" in word else "warning",
            what=word,
            action="Use the maker's power supply and a short, thick cable; unplug what draws power over USB."
            if supply
            else "Fit the active cooler, or give the housing air; times measured meanwhile say little.",
        )


def _rest(found: Inventory, profile: BoardProfile | None, *, expects_camera: bool) -> Iterator[BoardFinding]:
    if found.clock_synchronised is False:
        yield BoardFinding(
            level="warning",
            what="the clock has not been set by the network",
            action="Give it an NTP server (timedatectl, /etc/systemd/timesyncd.conf): updates expire by the clock.",
        )
    if expects_camera and not found.cameras:
        note = profile.camera.note if profile is not None else ""
        action = "Plug a USB camera in, or name a network camera in agent.toml."
        yield BoardFinding(level="note", what="the kernel sees no camera", action=f"{action} {note}".rstrip())
