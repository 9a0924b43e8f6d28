"""`Disk`: facts of a block device from sysfs, and the reasons for which it must not be written to.

Every doubt is a refusal, and the error names all reasons at once.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lineside_boards.errors import UnsafeTargetError
from lineside_runtime.system.drivers import read_text


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A block device.

    Attributes:
        path: Such as ``/dev/sda``.
        name: As the kernel calls it, such as ``sda``.
        model: Vendor and model, as it calls itself.
        size_bytes: Of the whole device.
        removable: Whether its medium can be removed, or it is connected by USB or in a card reader.
        read_only: Whether the kernel refuses to write.
        used: Uses of it or of a partition: mount points, ``swap``, or devices built on it.
    """

    path: Path
    name: str
    model: str
    size_bytes: int
    removable: bool
    loop: bool
    partition: bool
    read_only: bool
    used: tuple[str, ...]


def look(device: Path, root: Path | str = "/") -> Disk:
    """Reads the facts of a block device.

    Args:
        device: Such as ``/dev/sda``; a link is followed.
        root: Folder with ``sys`` and ``proc``; with another root than ``/`` only the name is used.

    Raises:
        UnsafeTargetError: It isn't there, or is no block device.
    """
    base, path = Path(root), device.resolve()
    if base == Path("/") and not _is_block(path):
        what = f"{device} is no block device" if path.exists() else f"there is no block device {device}"
        raise UnsafeTargetError(what, expected="a disk such as /dev/sda or /dev/mmcblk0")
    sys = base / "sys/class/block" / path.name
    if not sys.exists():
        raise UnsafeTargetError(f"{device}: the kernel knows no disk of this name")
    sectors = read_text(sys / "size")
    where = str(sys.resolve())
    words = (read_text(sys / "device/vendor"), read_text(sys / "device/model") or read_text(sys / "device/name"))
    return Disk(
        path=path,
        name=path.name,
        model=" ".join(word for word in words if word),
        size_bytes=int(sectors) * 512 if sectors.isdigit() else 0,
        removable=read_text(sys / "removable") == "1" or "/usb" in where or read_text(sys / "device/type") == "SD",
        loop=(sys / "loop").is_dir(),
        partition=(sys / "partition").exists(),
        read_only=read_text(sys / "ro") == "1",
        used=tuple(sorted(_uses(base, sys))),
    )


def _is_block(path: Path) -> bool:
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False


def _uses(base: Path, sys: Path) -> Iterator[str]:
    """Yields mounts and swaps by device number, and devices that the kernel has built upon it."""
    parts = [sys, *(part.parent for part in sys.glob("*/partition"))]
    numbers = {read_text(part / "dev") for part in parts}
    names = {part.name for part in parts}
    for line in read_text(base / "proc/self/mountinfo").splitlines():
        fields = line.split()
        source = fields[fields.index("-") + 2] if "-" in fields[:-2] else ""
        if len(fields) > 5 and (fields[2] in numbers or source.removeprefix("/dev/") in names):
            yield f"mounted on {_unescaped(fields[4])}"
    for line in read_text(base / "proc/swaps").splitlines()[1:]:
        if line.split()[0].removeprefix("/dev/") in names:
            yield f"swap on {line.split()[0]}"
    for part in parts:
        yield from (f"held by {holder.name}" for holder in (part / "holders").glob("*"))


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def check(disk: Disk, *, needed_bytes: int, loop: bool = False) -> None:
    """Refuses a disk that may hold data that is needed, or that is too small.

    Args:
        needed_bytes: Size of the image; 0 if unknown.
        loop: Whether a loop device is accepted.

    Raises:
        UnsafeTargetError: With every reason.
    """
    reasons = list(disk.used)
    if disk.partition:
        reasons.append(f"it is a part of a disk; the whole disk is meant, such as {_whole(disk.name)}")
    if disk.read_only:
        reasons.append("it is read-only; is the card's lock switch set?")
    if disk.loop and not loop:
        reasons.append("it is a loop device (--loop allows that)")
    if not disk.removable and not disk.loop and not disk.partition:
        reasons.append("it is built in: only cards and USB disks are written")
    if disk.size_bytes == 0:
        reasons.append("it holds no medium")
    elif disk.size_bytes < needed_bytes:
        reasons.append(f"it is too small: {disk.size_bytes} bytes, the image has {needed_bytes}")
    if reasons:
        told = f"{disk.path} ({disk.model or disk.name})"
        raise UnsafeTargetError(f"{told} is not written to: {'; '.join(reasons)}")


def _whole(name: str) -> str:
    found = re.fullmatch(r"(mmcblk\d+|nvme\d+n\d+)p\d+|([a-z]+)\d+", name)
    return f"/dev/{found[1] or found[2]}" if found else "the disk itself"
