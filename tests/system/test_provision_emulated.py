"""A board as its maker delivers it, on the Pi 5's core under qemu: by its serial console into the fleet.

The system is the Debian image that ``--build`` makes, with a user, his password and nothing of ours. Its serial console
is a pseudo-terminal, which pyserial opens; SSH is reached through a forwarded port, the broker through another one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from lineside_boards.first_boot import cloud_init
from lineside_boards.first_boot.settings import Settings
from lineside_boards.image import build
from lineside_boards.image.fat import FatVolume
from lineside_boards.image.table import find, partitions
from lineside_hub.identity import enrolled_devices
from tests.boards import arm64, emulator
from tests.peers.waiting import free_port, wait_for
from tests.system.test_board import GROUP, NAME, Site, lineside, say

pytestmark = pytest.mark.timeout(7200)

PASSWORD = "as delivered"
PROVISION_S = 5400
"""Generous: two emulated cores on a busy machine install 25 wheels."""


class DeliveredBoard:
    """A board that runs, and of which only the serial console is known."""

    def __init__(self, folder: Path, base: Path, site: Site) -> None:
        image = folder / "board.img"
        shutil.copyfile(base, image)
        command = ["openssl", "passwd", "-6", "-stdin"]
        hashed = subprocess.run(command, input=PASSWORD, capture_output=True, text=True, check=True).stdout.strip()
        with FatVolume(image, find(partitions(image), "bootfs", "fat")) as boot:
            cloud_init.apply(
                boot, Settings(hostname="factory", user="admin", password_hash=hashed, instance="delivered")
            )
            (folder / "vmlinuz").write_bytes(boot.read("vmlinuz"))
            (folder / "initrd.img").write_bytes(boot.read("initrd.img"))
            append = boot.read("cmdline.txt").decode().strip()
        self.ssh_port = free_port()
        start = emulator.command(
            folder / "vmlinuz",
            folder / "initrd.img",
            append=append,
            forward=(8883, site.port),
            console=None,
            memory_mib=1024,
            image=image,
            ssh_port=self.ssh_port,
        )
        self._log = folder / "qemu.log"
        self._file: IO[bytes] = self._log.open("wb")
        self._process = subprocess.Popen(start, stdout=self._file, stderr=subprocess.STDOUT)
        wait_for(lambda: self._console() is not None, 60.0, what="qemu's pseudo-terminal")
        self.tty = str(self._console())

    def _console(self) -> str | None:
        found = re.search(r"redirected to (/dev/pts/\d+)", self._log.read_text(errors="replace"))
        return found[1] if found else None

    def off(self) -> None:
        self._process.kill()
        self._process.wait(30)
        self._file.close()


@pytest.fixture(scope="module")
def base() -> Path:
    image = arm64.CACHE / f"debian-{build.SUITE}-arm64-{build.recipe()}.img"
    if not image.is_file():
        arm64.CACHE.mkdir(parents=True, exist_ok=True)
        say("building the base image")
        build.build(image, say=say)
    return image


@pytest.fixture
def delivered(base: Path, tmp_path: Path) -> Iterator[tuple[Site, DeliveredBoard, Path]]:
    payload, _ = arm64.agent()
    site = Site(tmp_path)
    site.start_hub()
    board = DeliveredBoard(tmp_path, base, site)
    try:
        yield site, board, payload.path
    finally:
        board.off()
        site.stop()


def test_delivered_board_joins_by_its_serial_console(
    delivered: tuple[Site, DeliveredBoard, Path], tmp_path: Path
) -> None:
    site, board, payload = delivered
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")], check=True)
    command = [
        *("board", "provision", "--serial", board.tty, "--user", "admin", "--address", f"127.0.0.1:{board.ssh_port}"),
        *(
            "--board",
            "qemu-virt",
            "--name",
            NAME,
            "--group",
            GROUP,
            "--hub",
            str(site.folder),
            "--boot-timeout",
            "1200",
        ),
        *(
            "--broker",
            f"mqtts://{emulator.HOST}:8883",
            "--ssh-key",
            str(tmp_path / "id.pub"),
            "--payload",
            str(payload),
        ),
        *("--bundle", "surface-12", "--camera", "folder:/opt/lineside/factory/golden", "--json"),
    ]
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "lineside", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LINESIDE_BOARD_PASSWORD": PASSWORD},
    )
    lines: list[str] = []

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            say(line.rstrip())

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        wait_for(
            lambda: process.poll() is not None or NAME in enrolled_devices(site.folder / "identity"),
            PROVISION_S,
            what="the identity",
        )
        site.let_in()
        assert process.stdout is not None
        out = process.stdout.read()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        listener.join(30)
    assert process.returncode == 0, "".join(lines[-10:])
    made = json.loads(out)
    say(
        f"{made['device']}: {made['steps_done']} steps, {made['carried_bytes'] / 1e6:.0f} MB carried, "
        f"{time.monotonic() - begun:.0f} s from power to joined"
    )
    assert (made["board"], made["active"], made["joined"]) == ("qemu-virt", True, True)
    assert made["detected"]["architecture"] == "aarch64"
    wait_for(lambda: site.device()["results"] >= 2, 900.0, what="results at the hub")
    again = json.loads(
        subprocess.run(
            [sys.executable, "-m", "lineside", *command],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "LINESIDE_BOARD_PASSWORD": PASSWORD},
        ).stdout
    )
    assert (again["steps_done"], again["carried_bytes"], again["joined"]) == (0, 0, True)
    assert str(json.loads(lineside("fleet", "show", NAME, "--hub", site.folder, "--json"))).count(NAME) >= 1
