"""`EmulatedBoard`: a prepared image on qemu's board, switched on and off."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from lineside_boards.errors import ImageError, MissingProgramError
from lineside_boards.image import build
from lineside_boards.image.ext4 import Ext4Volume
from lineside_boards.image.fat import FatVolume
from lineside_boards.image.partition_table import find, partitions
from lineside_boards.image.programs import run
from tests.boards import arm64, emulator
from tests.boards.pins import Pins
from tests.boards.site import GROUP, NAME, BoardSite, say
from tests.boards.volatile import VolatileDisk
from tests.peers.programs import left_out
from tests.peers.waiting import wait_for
from tests.worlds.secure_site import lineside

MEMORY_MIB = 1024
PATIENCE = "systemd.default_device_timeout_sec=3600 systemd.default_timeout_start_sec=3600"
"""An emulator on a busy machine brings a disk after minutes."""
TRIGGERED = """
[camera]
type = "folder"
path = "/opt/lineside/factory/golden"
loop = true

[trigger]
deadline_ms = 600000.0
late_max = 0
"""
"""Of ``agent.toml``: parts that the line triggers, and as long to judge one as an emulator may need."""
HOST_CACHE = arm64.ROOT / ".cache"
"""In the place of the user's: Debian is built there once."""


def base_image() -> Path:
    """Returns the Debian image that ``--build`` makes, from the same place; skips the test where none can be built."""
    place = HOST_CACHE / f"lineside/debian-{build.SUITE}-arm64-{build.recipe()}.img"
    if not place.is_file():
        try:
            build.check_host()
            build.debian_mirror()
        except (MissingProgramError, ImageError) as error:
            left_out(f"no Debian image can be built here: {error}")
        place.parent.mkdir(parents=True, exist_ok=True)
        build.build(place, say=say)
    return place


def repaired_root(image: Path, out: Path) -> Ext4Volume:
    """Copies a card's root file system and does what the next start does: replays its journal, and looks through it.

    Args:
        image: Of the card, which isn't touched.
        out: For the copy.
    """
    part = find(partitions(image), "rootfs", "ext4")
    place = (f"skip={part.start}", f"count={part.size}", "iflag=skip_bytes,count_bytes")
    run("dd", f"if={image}", f"of={out}", "bs=4M", "conv=sparse", *place, "status=none")
    run("e2fsck", "-fp", out, codes=(0, 1))  # 1: the journal was replayed; without an offset, which e2fsck then forgets
    return Ext4Volume(out, msgspec.structs.replace(part, start=0))


def prepared(folder: Path, site: BoardSite, line: str) -> Path:
    """Returns the card that one command makes, or the one that is there of an earlier run.

    Args:
        folder: For it.
        site: Whose hub enrols the board.
        line: The rest of ``agent.toml``.
    """
    image = folder / "pi.img"
    if image.exists():
        return image
    (folder / "line.toml").write_text(line)
    begun = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(HOST_CACHE))
        printed = lineside(
            *("board", "prepare", "--board", "qemu-virt", "--build", "--out", image, "--name", NAME, "--group", GROUP),
            *("--hub", site.folder, "--broker", f"mqtts://{emulator.HOST}:8883", "--bundle", "surface-12"),
            *("--payload", arm64.payload().path, "--config", folder / "line.toml"),
        )
    say(f"{printed.strip()} ({time.monotonic() - begun:.1f} s)")
    return image


class EmulatedBoard:
    """A board with a disk that forgets what wasn't flushed, switched off.

    Args:
        folder: For its files.
        image: Its disk.
        port: Of the broker here; the board reaches it at port 8883 of `emulator.HOST`.
        ssh_port: Port here that leads to its port 22; 0 for none.
        pty: Whether its console is a pseudo-terminal, `tty`; else it is written to the file `console`.

    Attributes:
        disk: Its disk, which loses what was not flushed when the power is cut.
        pins: The lines of its GPIO chip, watched since it got power.
        ssh_port: As given.
        tty: The pseudo-terminal that is its console.
    """

    def __init__(self, folder: Path, image: Path, port: int, *, ssh_port: int = 0, pty: bool = False) -> None:
        self.image, self.console, self.tty = image, folder / "console.log", ""
        self._folder, self._port, self.ssh_port, self._pty = folder, port, ssh_port, pty
        self.disk = VolatileDisk(image, folder / "disk")
        self._process: emulator.Running | None = None
        self.pins: Pins
        with FatVolume(image, find(partitions(image), "bootfs", "fat")) as boot:
            (folder / "vmlinuz").write_bytes(boot.read("vmlinuz"))
            (folder / "initrd.img").write_bytes(boot.read("initrd.img"))
            self._append = f"{boot.read('cmdline.txt').decode().strip()} {PATIENCE}"

    def on(self) -> None:
        """Gives it power."""
        for name in ("qmp", "qtest"):
            (self._folder / name).unlink(missing_ok=True)
        self.disk.on()
        command = emulator.command(
            self._folder / "vmlinuz",
            self._folder / "initrd.img",
            append=self._append,
            forward=(8883, self._port),
            console=None if self._pty else self.console,
            memory_mib=MEMORY_MIB,
            disk=self.disk.url,
            ssh_port=self.ssh_port,
            ports=self._folder,
        )
        self._process = emulator.Running(command, self._folder / "qemu.log")
        if self._pty:
            self.tty = self._process.terminal()
        wait_for((self._folder / "qtest").exists, 60.0, what=f"qemu's ports in {self._folder}")
        self.pins = Pins(self._folder / "qtest", self._folder / "qmp")

    def cut(self) -> None:
        """Takes its power away: at one moment it stops, and its disk forgets what wasn't flushed."""
        if self._process is not None:
            self._process.freeze()
            self.disk.cut()
            self.pins.close()
            self._process.kill()
            self._process = None

    def said(self, text: str) -> bool:
        """Whether its console has shown a text."""
        return text in self.console.read_text(errors="replace")
