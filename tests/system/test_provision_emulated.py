"""A board as its maker delivers it, on the Pi 5's core under qemu: by its serial console into the fleet.

The system is the Debian image that ``--build`` makes, with a user, his password and nothing of ours. Its serial console
is a pseudo-terminal, which pyserial opens; SSH is reached through a forwarded port, the broker through another one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_boards.first_boot import cloud_init
from lineside_boards.first_boot.settings import FirstBootSettings
from lineside_boards.image.fat import FatVolume
from lineside_boards.image.partition_table import find, partitions
from tests.boards import arm64, emulator
from tests.boards.powered import EmulatedBoard, base_image
from tests.boards.site import GROUP, NAME, BoardSite, say
from tests.peers.waiting import free_port, wait_for
from tests.worlds.secure_site import lineside

pytestmark = pytest.mark.timeout(7200)

PASSWORD = "as delivered"
PROVISION_S = 5400
"""Generous: two emulated cores on a busy machine install 25 wheels."""


def delivered_card(folder: Path) -> Path:
    """The Debian that ``--build`` makes, with a user of its maker's."""
    base = base_image()
    image = folder / "board.img"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", base, image], check=True)
    command = ["openssl", "passwd", "-6", "-stdin"]
    hashed = subprocess.run(command, input=PASSWORD, capture_output=True, text=True, check=True).stdout.strip()
    with FatVolume(image, find(partitions(image), "bootfs", "fat")) as boot:
        cloud_init.apply(
            boot, FirstBootSettings(hostname="factory", user="admin", password_hash=hashed, instance="delivered")
        )
    return image


@pytest.fixture
def delivered(tmp_path: Path) -> Iterator[tuple[BoardSite, EmulatedBoard, Path]]:
    payload, card = arm64.payload(), delivered_card(tmp_path)
    site = BoardSite(tmp_path)
    board = EmulatedBoard(tmp_path, card, site.port, ssh_port=free_port(), pty=True)
    try:
        site.start_hub()
        board.on()
        yield site, board, payload.path
    finally:
        board.cut()
        site.stop()


def test_delivered_board_joins_by_its_serial_console(
    delivered: tuple[BoardSite, EmulatedBoard, Path], tmp_path: Path
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
            lambda: process.poll() is not None or site.enrolled(NAME),
            PROVISION_S,
            what="the identity",
            every_s=1.0,
        )
        site.let_in()
        assert process.stdout is not None
        out = process.stdout.read()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        listener.join(30)
        for end in (process.stdout, process.stderr):
            assert end is not None
            end.close()
    assert process.returncode == 0, "".join(lines[-10:])
    made = json.loads(out)
    say(
        f"{made['device']}: {made['steps_done']} steps, {made['carried_bytes'] / 1e6:.0f} MB carried, "
        f"{time.monotonic() - begun:.0f} s from power to joined"
    )
    assert (made["board"], made["active"], made["joined"]) == ("qemu-virt", True, True)
    assert made["detected"]["architecture"] == "aarch64"
    site.wait_until(900.0, what="results at the hub", results=2)
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
