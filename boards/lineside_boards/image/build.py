"""Build a Debian arm64 image with the layout of Raspberry Pi OS; it boots on qemu's board ``virt``.

::

    MBR ── 8 MiB ── FAT32 bootfs: vmlinuz, initrd.img, cmdline.txt, user-data, meta-data, network-config
              └──── ext4 rootfs: Debian 13 with systemd, cloud-init, sshd, Python

Nothing of the image is mounted: mmdebstrap makes a tar, ``mke2fs -d`` a file system of it, and `FatVolume` fills the
other one. Nobody else sees mmdebstrap's own mounts (for root, this machine's ``/dev/shm`` is one): whoever deleted the
folder that a killed one leaves would delete what is mounted there.
The packages' scripts run under qemu-user, so this machine must be able to run arm64 programs (package qemu-user-static
with binfmt). The mirror is the one that this machine's apt uses.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from lineside_boards.errors import ImageError
from lineside_boards.image import initramfs
from lineside_boards.image.ext4 import Ext4Volume
from lineside_boards.image.fat import FatVolume
from lineside_boards.image.partition_table import Partition, write_mbr
from lineside_boards.image.programs import find, run, run_in_namespaces

Say = Callable[[str], None]

SUITE, ARCHITECTURE = "trixie", "arm64"
PROGRAMS = ("mmdebstrap", "arch-test", "mke2fs", "debugfs", "mkfs.vfat")
MIB = 1 << 20
BOOT_START, BOOT_BYTES, ROOT_BYTES = 8 * MIB, 128 * MIB, 1900 * MIB
DISK_ID = 0x6C736964
_BOOT = Partition(1, BOOT_START, BOOT_BYTES, 0x0C, "bootfs", "fat")
_ROOT = Partition(2, BOOT_START + BOOT_BYTES, ROOT_BYTES, 0x83, "rootfs", "ext4")

PACKAGES = (
    *("systemd-sysv", "systemd-resolved", "udev", "dbus", "login", "passwd", "iproute2", "kmod", "procps", "sudo"),
    *("python3", "linux-image-cloud-arm64", "openssh-server", "ca-certificates", "cloud-init", "e2fsprogs"),
    "busybox-static",
)
"""The cloud kernel is a third of the size of the generic one, and has virtio, ext4 and qemu's GPIO chip."""

MODULES = ("virtio_blk",)

_WANTED = re.compile(r"\./(boot/vmlinuz-.*|(usr/)?bin/busybox|(usr/)?lib/modules/.*\.ko(\.xz)?)")

CMDLINE = "console=ttyAMA0,115200 root=LABEL=rootfs rootfstype=ext4 rw rootwait quiet"

_NETWORKD = "systemd-networkd.service"
_LINKS = {
    f"etc/systemd/system/multi-user.target.wants/{_NETWORKD}": f"/usr/lib/systemd/system/{_NETWORKD}",
    "etc/systemd/system/systemd-networkd-wait-online.service": "/dev/null",
    "etc/systemd/system/apt-daily.timer": "/dev/null",
    "etc/systemd/system/apt-daily-upgrade.timer": "/dev/null",
}

_FILES = {
    "etc/fstab": "LABEL=rootfs / ext4 defaults,noatime 0 1\nLABEL=bootfs /boot/firmware vfat defaults,nofail 0 2\n",
    "etc/hostname": "lineside\n",
    "etc/machine-id": "",
    "etc/systemd/network/80-dhcp.network": "[Match]\nName=e*\n[Network]\nDHCP=yes\n",
    "etc/cloud/cloud.cfg.d/99_bootfs.cfg": (
        "datasource_list: [NoCloud]\ndatasource:\n  NoCloud:\n    seedfrom: file:///boot/firmware/\n"
    ),
    "etc/systemd/system/cloud-init-local.service.d/bootfs.conf": "[Unit]\nRequiresMountsFor=/boot/firmware\n",
}
"""Files that Raspberry Pi OS has and a minimal Debian lacks."""


def build(out: Path, *, say: Say, mirror: str | None = None, archive: Path | None = None) -> None:
    """Builds the image.

    Args:
        out: The image; it must not exist.
        mirror: Of Debian; the first one that this machine's apt uses if ``None``.
        archive: A tar that `debootstrap` made before.

    Raises:
        MissingProgramError: mmdebstrap, arch-test, e2fsprogs or dosfstools are not installed.
        ImageError: This machine runs no arm64 programs, or one of those failed.
    """
    if archive is None:
        check_host()
    with tempfile.TemporaryDirectory(prefix=".build-", dir=out.resolve().parent) as name:
        scratch = Path(name)
        if archive is None:
            archive = scratch / "rootfs.tar"
            debootstrap(archive, mirror or debian_mirror())
        say(f"Debian {SUITE} arm64: {archive.stat().st_size / 1e6:.0f} MB unpacked")
        image = scratch / "disk.img"
        with image.open("wb") as file:
            file.truncate(_ROOT.start + _ROOT.size)
        options = f"offset={_ROOT.start},root_owner=0:0"
        run("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-d", archive, "-E", options, image, f"{ROOT_BYTES // 1024}k")
        write_mbr(image, (_BOOT, _ROOT), disk_id=DISK_ID)
        Ext4Volume(image, _ROOT).write_tree(_extra(scratch / "extra"))
        _fill_boot(image, archive, scratch)
        image.replace(out)
    say(f"made {out}: {out.stat().st_size / 1e6:.0f} MB")


def check_host(architecture: str = ARCHITECTURE) -> None:
    """Checks whether this machine can build an image of an architecture, given by Debian's name.

    Raises:
        MissingProgramError: A program isn't installed; the message names its package.
        ImageError: This machine runs no arm64 programs.
    """
    for name in PROGRAMS:
        find(name)
    if subprocess.run([find("arch-test"), architecture], capture_output=True).returncode != 0:
        raise ImageError(
            f"this machine runs no {architecture} programs, and the image's packages have scripts that must run",
            expected=f"`arch-test {architecture}` says ok",
            action="Install the emulator and have the kernel use it: apt install qemu-user-static binfmt-support; "
            "then, if need be, systemctl restart systemd-binfmt.",
        )


def recipe() -> str:
    """Returns a short digest of the image's recipe, so that a changed recipe builds a new image."""
    parts = repr((SUITE, PACKAGES, MODULES, CMDLINE, _FILES, _LINKS, BOOT_BYTES, ROOT_BYTES, initramfs.SWITCH_TO_DISK))
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def debian_mirror() -> str:
    """Returns the first Debian mirror of this machine's apt.

    Raises:
        ImageError: It has none.
    """
    sources = Path("/etc/apt")
    files = [sources / "sources.list", *sorted((sources / "sources.list.d").glob("*"))]
    for file in files:
        found = re.search(r"https?://\S+/debian/?(?=\s|$)", file.read_text() if file.is_file() else "")
        if found:
            return found[0]
    raise ImageError("this machine's apt has no Debian mirror", action="Name one with --mirror.")


def debootstrap(archive: Path, mirror: str) -> None:
    """Makes a tar of a Debian; takes minutes, because the packages' scripts run under emulation."""
    run_in_namespaces(
        "mmdebstrap",
        f"--arch={ARCHITECTURE}",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=Apt::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/ca-certificates/mozilla/NetLock*",  # mke2fs reads no tar with ő in a name
        "--dpkgopt=force-unsafe-io",
        SUITE,
        archive,
        mirror,
    )


def _extra(tree: Path) -> Path:
    for place, text in _FILES.items():
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).write_text(text)
    for place, target in _LINKS.items():
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).symlink_to(target)
    (tree / "boot/firmware").mkdir(parents=True)
    return tree


def _fill_boot(image: Path, archive: Path, scratch: Path) -> None:
    fat = scratch / "boot.fat"
    run("mkfs.vfat", "-C", "-F", "32", "-s", "1", "-n", "bootfs", fat, str(_BOOT.size // 1024))
    with image.open("r+b") as target, fat.open("rb") as source:
        target.seek(_BOOT.start)
        while piece := source.read(MIB):
            target.write(piece)
    fat.unlink()
    kernel, busybox, modules = _kernel_of(archive, scratch)
    with FatVolume(image, _BOOT) as volume:
        volume.write("vmlinuz", kernel)
        volume.write("initrd.img", initramfs.make(busybox, initramfs.pick(modules, MODULES)))
        volume.write("cmdline.txt", f"{CMDLINE}\n".encode())
        volume.write("user-data", b"#cloud-config\n")
        volume.write("meta-data", b"instance-id: image-default\n")
        volume.write("network-config", b"")


def _kernel_of(archive: Path, scratch: Path) -> tuple[bytes, bytes, Path]:
    """Takes the kernel, busybox and the kernel's modules out of the tar."""
    found = {"vmlinuz": b"", "busybox": b""}
    modules = scratch / "modules"
    modules.mkdir()
    with tarfile.open(archive) as tar:
        for name, file in _wanted(tar):
            key = name.partition("-")[0]
            if key in found:
                found[key] = file.read()
            else:
                (modules / name).write_bytes(file.read())
    if not all(found.values()):
        raise ImageError("the Debian tree is not whole", expected="/boot/vmlinuz-* and /usr/bin/busybox")
    return found["vmlinuz"], found["busybox"], modules


def _wanted(tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for member in tar:
        if _WANTED.fullmatch(member.name) and (file := tar.extractfile(member)) is not None:
            yield Path(member.name).name, file
