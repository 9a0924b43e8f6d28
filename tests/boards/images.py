"""Images as vendors lay them out, made small: MBR, FAT ``bootfs``, ext4 ``rootfs``, and what of their files matters."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.peers.programs import find_program

MIB = 1 << 20
CMDLINE = (
    "console=serial0,115200 console=tty1 root=PARTUUID=4d2b1c0a-02 rootfstype=ext4 fsck.repair=yes rootwait quiet "
    "init=/usr/lib/raspberrypi-sys-mods/firstboot"
)
"""As Raspberry Pi OS bookworm's."""

STOCK_USER_DATA = "#cloud-config\r\n\r\n# Customisation goes here.\r\nruncmd:\r\n  - [touch, /etc/vendor]\r\n"
"""With a command of its own, and saved on Windows."""


def elf(machine: int = 0xB7) -> bytes:
    """The first bytes of a program: 64 bits, little endian, of this machine."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + machine.to_bytes(2, "little") + bytes(44)


def rootfs(tree: Path, *, first_boot: str, python: str = "3.13", machine: int = 0xB7) -> Path:
    """The files of a root that somebody looks for."""
    files = {
        f"usr/bin/python{python}": elf(machine),
        "usr/lib/systemd/systemd": b"",
        "etc/hostname": b"raspberrypi\n",
        "etc/systemd/system/keep.service": b"[Unit]\n",
    }
    if first_boot == "cloud-init":
        files["usr/bin/cloud-init"] = b"#!/usr/bin/python3\n"
    if first_boot == "preseed":
        files["usr/lib/raspberrypi-sys-mods/init_config"] = b"#!/bin/bash\n"
    for place, data in files.items():
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).write_bytes(data)
    (tree / "opt").mkdir()
    return tree


def raspberry_pi_os(
    out: Path,
    *,
    first_boot: str,
    root_mib: int = 64,
    fill_mib: int = 0,
    python: str = "3.13",
    machine: int = 0xB7,
) -> Path:
    """An image of Raspberry Pi OS' layout, its root filled with so much noise."""
    tree = rootfs(out.parent / f"{out.name}.tree", first_boot=first_boot, python=python, machine=machine)
    with (tree / "var-noise").open("wb") as file:
        for _ in range(fill_mib):
            file.write(os.urandom(MIB))
    boot, boot_mib = out.parent / f"{out.name}.fat", 48
    run("mkfs.vfat", "-C", "-F", "32", "-s", "1", "-n", "bootfs", str(boot), str(boot_mib * 1024), package="dosfstools")
    files = {"cmdline.txt": f"{CMDLINE}\n", "config.txt": "[all]\n"}
    if first_boot == "cloud-init":
        files |= {"user-data": STOCK_USER_DATA, "meta-data": "instance-id: rpi-image\n", "network-config": ""}
    for name, text in files.items():
        subprocess.run(["mcopy", "-i", boot, "-", f"::{name}"], input=text.encode(), check=True)
    with out.open("wb") as file:
        file.truncate((4 + boot_mib + root_mib) * MIB)
    run("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-d", str(tree), "-E",
        f"offset={(4 + boot_mib) * MIB},root_owner=0:0", str(out), f"{root_mib * 1024}k")  # fmt: skip
    table = (
        f"label: dos\nlabel-id: 0x4d2b1c0a\nstart={4 * 2048}, size={boot_mib * 2048}, type=c\n"
        f"start={(4 + boot_mib) * 2048}, size={root_mib * 2048}, type=83\n"
    )
    run("sfdisk", "-q", str(out), text=table, package="fdisk")
    with out.open("r+b") as image:
        image.seek(4 * MIB)
        image.write(boot.read_bytes())
    boot.unlink()
    return out


def jetpack(out: Path, *, root_mib: int = 64) -> Path:
    """An image of JetPack's layout: a GPT whose first partition is the root and is called APP."""
    tree = rootfs(out.parent / f"{out.name}.tree", first_boot="", python="3.10")
    with out.open("wb") as file:
        file.truncate((root_mib + 12) * MIB)
    table = f"label: gpt\nstart=10240, size={root_mib * 2048}, name=APP\nsize=2048, name=esp\n"
    run("sfdisk", "-q", str(out), text=table, package="fdisk")
    run("mke2fs", "-q", "-t", "ext4", "-F", "-d", str(tree), "-E", "offset=5242880,root_owner=0:0",
        str(out), f"{root_mib * 1024}k")  # fmt: skip
    return out


def run(name: str, *arguments: str, text: str | None = None, package: str = "e2fsprogs") -> str:
    """Runs a program of Debian's, the independent judge of what ours wrote."""
    program = find_program(name, package)
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True)
    assert done.returncode == 0, f"{name} {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def fat_file(image: Path, name: str, *, offset: int = 4 * MIB) -> str:
    """A file of the FAT partition, as mtools reads it."""
    return run("mcopy", "-i", f"{image}@@{offset}", f"::{name}", "-", package="mtools")


def root_file(image: Path, path: str, *, offset: int = 52 * MIB) -> str:
    """A file of the ext4 partition, as debugfs reads it."""
    return run("debugfs", "-R", f"cat {path}", f"{image}?offset={offset}")


def check_file_systems(image: Path, folder: Path) -> None:
    """fsck.vfat and e2fsck find nothing."""
    fat = folder / "check.fat"
    with image.open("rb") as file:
        file.seek(4 * MIB)
        fat.write_bytes(file.read(48 * MIB))
    run("fsck.vfat", "-n", str(fat), package="dosfstools")
    run("e2fsck", "-fn", f"{image}?offset={52 * MIB}")
    fat.unlink()
