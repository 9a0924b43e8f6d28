"""An initramfs with a static busybox, a few modules and a short ``init``.

Made without running programs of the board (update-initramfs under emulation takes a minute). The format is cpio's
"newc": https://docs.kernel.org/driver-api/early-userspace/buffer-format.html.
"""

from __future__ import annotations

import gzip
import lzma
import stat
from collections.abc import Sequence
from pathlib import Path

from lineside_boards.errors import ImageError

_FOLDERS = ("bin", "dev", "proc", "sys", "run", "tmp", "newroot", "mod")

SWITCH_TO_DISK = """\
#!/bin/sh
PATH=/bin
busybox mount -t proc proc /proc; busybox mount -t sysfs sysfs /sys; busybox mount -t devtmpfs dev /dev
for module in /mod/*.ko; do busybox insmod $module; done
for word in $(busybox cat /proc/cmdline); do case $word in root=*) root=${word#root=};; esac; done
case $root in LABEL=*)
    label=${root#LABEL=}; tries=0
    until root=$(busybox findfs LABEL=$label 2>/dev/null) || [ $tries = 300 ]; do
        tries=$((tries+1)); busybox usleep 100000
    done;;
esac
busybox mount -t ext4 -o rw,noatime $root /newroot || exec busybox sh
exec busybox switch_root /newroot /sbin/init
"""
"""``init``: mounts the disk that the kernel's command line names and starts the system on it."""


def make(
    busybox: bytes,
    modules: Sequence[tuple[str, bytes]],
    *,
    init: str = SWITCH_TO_DISK,
    files: Sequence[tuple[str, bytes]] = (),
) -> bytes:
    """Returns a compressed initramfs.

    Args:
        busybox: The static program for the board's architecture.
        modules: Name and content of kernel modules in the order of loading; may be compressed with xz.
        init: Text of the first program.
        files: More executable files, by path from the root.
    """
    out = bytearray()
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in _FOLDERS]
    folders = {str(parent) for path, _ in files for parent in Path(path).parents if str(parent) not in (".", *_FOLDERS)}
    entries += [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(folders)]
    entries += [("bin/busybox", stat.S_IFREG | 0o755, busybox), ("bin/sh", stat.S_IFLNK | 0o777, b"busybox")]
    entries += [(f"mod/{index:02d}.ko", stat.S_IFREG | 0o644, _plain(data)) for index, (_, data) in enumerate(modules)]
    entries += [(path, stat.S_IFREG | 0o755, data) for path, data in files]
    entries += [("init", stat.S_IFREG | 0o755, init.encode())]
    for number, (name, mode, data) in enumerate(entries, start=1):
        out += _entry(number, name, mode, data)
    out += _entry(len(entries) + 1, "dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1))
    out += _entry(0, "TRAILER!!!", 0, b"")
    return gzip.compress(bytes(out), compresslevel=1, mtime=0)


def pick(folder: Path, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """Finds kernel modules by name below a folder.

    Raises:
        ImageError: A module is missing.
    """
    found = {path.name.partition(".ko")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    missing = [name for name in names if name not in found]
    if missing:
        raise ImageError(f"the kernel has no module {', '.join(missing)}")
    return [(name, found[name].read_bytes()) for name in names]


def _plain(data: bytes) -> bytes:
    return lzma.decompress(data) if data.startswith(b"\xfd7zXZ") else data


def _entry(number: int, name: str, mode: int, data: bytes, *, device: tuple[int, int] = (0, 0)) -> bytes:
    """Returns an entry: a header of thirteen hexadecimal numbers, name and data, padded to four bytes."""
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    head = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
