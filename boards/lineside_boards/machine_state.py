"""State of the machine from the kernel's files under a ``root``: heat, throttling, power, disk, clock.

Nothing is raised and no program is started; an unknown value is ``None`` or absent.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from lineside_runtime.system.drivers import read_text

THROTTLED = {
    0: "under-voltage now",
    1: "clock capped now",
    2: "throttled now",
    3: "soft temperature limit now",
    16: "under-voltage since it was started",
    17: "clock capped since it was started",
    18: "throttled since it was started",
    19: "soft temperature limit since it was started",
}
"""Bits of ``get_throttled``: https://www.raspberrypi.com/documentation/computers/os.html#vcgencmd."""

_PLAUSIBLE_C = (-40.0, 150.0)
"""Sensors that are off report values far outside, such as Jetson's ``-256``."""


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """The disk that holds the root file system.

    Attributes:
        device: Such as ``mmcblk0``; empty if the root is not on a disk.
        kind: ``card``, ``emmc``, ``nvme``, ``usb`` or ``disk``; empty if unknown.
        name: The maker's name.
        size_bytes: Of the whole device; 0 if unknown.
        free_bytes: Of the root file system, for users.
        read_only: Whether the root is mounted read-only.
        errors: Counted by ext4 since it was created; ``None`` on other file systems.
        life_used_percent: Estimate of the eMMC in steps of ten; ``None`` if it has none.
        wear: ``normal``, ``warning`` or ``urgent`` by the eMMC's reserve; empty if it has none.
    """

    device: str = ""
    kind: str = ""
    name: str = ""
    size_bytes: int = 0
    free_bytes: int = 0
    read_only: bool = False
    errors: int | None = None
    life_used_percent: int | None = None
    wear: str = ""


class CameraState(msgspec.Struct, frozen=True, kw_only=True):
    """A camera that the kernel sees: its node, such as ``/dev/video0``, and the driver's name of it."""

    device: str
    name: str


def temperature_c(root: Path | str = "/") -> float | None:
    """Returns the hottest of the kernel's thermal zones in °C, or ``None`` if there is none."""
    zones = (Path(root) / "sys/class/thermal").glob("thermal_zone*/temp")
    values = [int(text) / 1000 for zone in zones if (text := read_text(zone)).lstrip("-").isdigit()]
    plausible = [value for value in values if _PLAUSIBLE_C[0] < value < _PLAUSIBLE_C[1] and value]
    return max(plausible, default=None)


def throttling(root: Path | str = "/") -> tuple[str, ...] | None:
    """Returns the reasons for a reduced clock, now or earlier; empty if there are none, ``None`` if unknown."""
    base = Path(root)
    told = [words for words in (_by_firmware(base), _by_cooling(base), _by_cpu(base)) if words is not None]
    return tuple(word for words in told for word in words) if told else None


def _by_firmware(base: Path) -> list[str] | None:
    """Raspberry Pi's firmware: a file of its driver, whose path differs from model to model."""
    for file in sorted((base / "sys/devices/platform").glob("**/*firmware*/get_throttled")):
        text = read_text(file)
        try:
            bits = int(text, 16)
        except ValueError:
            continue
        return [word for bit, word in THROTTLED.items() if bits >> bit & 1]
    return None


def _by_cooling(base: Path) -> list[str] | None:
    """Cooling devices that limit a processor's clock have a state above 0."""
    found = None
    for device in sorted((base / "sys/class/thermal").glob("cooling_device*")):
        kind, state = read_text(device / "type"), read_text(device / "cur_state")
        if ("cpufreq" in kind or "devfreq" in kind) and state.isdigit():
            found = found or []
            found += [f"{kind} held down by {state} steps now"] if int(state) else []
    return found


def _by_cpu(base: Path) -> list[str] | None:
    """Intel's processors count thermal throttling."""
    files = sorted((base / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/package_throttle_count"))
    counts = [int(text) for file in files if (text := read_text(file)).isdigit()]
    if not counts:
        return None
    return [f"package throttled {max(counts)} times since it was started"] if max(counts) else []


def storage(root: Path | str = "/") -> Storage:
    """Returns the facts of the disk that holds the root."""
    base = Path(root)
    number, options = _root_mount(base)
    partition = (base / "sys/dev/block" / number).resolve() if number else base / "absent"
    disk = partition.parent if (partition / "partition").exists() else partition
    device = disk.name if disk.is_dir() else ""
    sectors = read_text(disk / "size")
    return Storage(
        device=device,
        kind=_kind(disk) if device else "",
        name=read_text(disk / "device/name") or read_text(disk / "device/model"),
        size_bytes=int(sectors) * 512 if sectors.isdigit() else 0,
        free_bytes=_free_bytes(base),
        read_only="ro" in options,
        errors=_number(read_text(base / "sys/fs/ext4" / partition.name / "errors_count")),
        life_used_percent=_life_used(read_text(disk / "device/life_time")),
        wear={"0x01": "normal", "0x02": "warning", "0x03": "urgent"}.get(read_text(disk / "device/pre_eol_info"), ""),
    )


def _root_mount(base: Path) -> tuple[str, list[str]]:
    """Device number and options of ``/``, by proc_pid_mountinfo(5)."""
    for line in read_text(base / "proc/self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[4] == "/":
            return fields[2], fields[5].split(",")
    return "", []


def _kind(disk: Path) -> str:
    if disk.name.startswith("mmcblk"):
        return "card" if read_text(disk / "device/type") == "SD" else "emmc"
    if disk.name.startswith("nvme"):
        return "nvme"
    return "usb" if "/usb" in str(disk) else "disk"


def _free_bytes(base: Path) -> int:
    try:
        told = os.statvfs(base)
    except OSError:
        return 0
    return told.f_bavail * told.f_frsize


def _life_used(text: str) -> int | None:
    """JEDEC eMMC 5.0: two estimates, ``0x01`` for 0 to 10 % up to ``0x0b`` for past its life; 0 is undefined."""
    worst = max((int(part, 16) for part in re.findall(r"\b0x[0-9a-fA-F]{1,2}\b", text)), default=0)
    return worst * 10 if worst else None


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


NOT_CAMERAS = ("bcm2835-codec", "bcm2835-isp", "rpi-hevc", "rpivid", "pispbe", "rkvdec", "hantro", "vepu", "rga")
"""Video nodes of codecs and image processors."""


def cameras(root: Path | str = "/") -> tuple[CameraState, ...]:
    """Returns the kernel's cameras: the first node of each video device that isn't a codec or an image processor."""
    found = []
    for node in sorted(
        (Path(root) / "sys/class/video4linux").glob("video*"), key=lambda node: (len(node.name), node.name)
    ):
        name = read_text(node / "name")
        if read_text(node / "index") in ("", "0") and not name.startswith(NOT_CAMERAS):
            found.append(CameraState(device=f"/dev/{node.name}", name=name))
    return tuple(found)


def clock_synchronised(root: Path | str = "/") -> bool | None:
    """Returns whether systemd has set the clock by the network; ``None`` if another program does, or none."""
    folder = Path(root) / "run/systemd/timesync"
    return (folder / "synchronized").exists() if folder.is_dir() else None
