"""T3: an image that our own command made boots on the Pi 5's core and joins the fleet; nothing is told it by hand.

``make test-system`` runs it. The base image is built once (some minutes, ``.cache/boards``).
``LINESIDE_POWER_CUTS`` says how often power is cut during updates (default 20).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_boards.image import build
from lineside_boards.image.fat import FatVolume
from lineside_boards.image.programs import run
from lineside_boards.image.table import find, partitions
from tests.boards import arm64, emulator
from tests.peers.brokers import find_mosquitto
from tests.peers.waiting import free_port, wait_for

JOIN_TIMEOUT_S, STEP_TIMEOUT_S = 900, 900
"""Generous: two emulated cores on a busy machine."""

NAME, GROUP = "cam-07", "line-3"


def say(text: str) -> None:
    """A line of the log that is kept."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def lineside(*arguments: str | Path) -> str:
    """Runs a command as a user does."""
    done = subprocess.run([sys.executable, "-m", "lineside", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"lineside {arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Site:
    """A hub and a broker with mutual TLS on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "hub"
        self.port = free_port()
        lineside("hub", "init", self.folder, "--site", "plant-1", "--group", GROUP)
        hosts = ("--host", "127.0.0.1", "--host", emulator.HOST)
        lineside("hub", "secure", "--hub", self.folder, *hosts, "--port", str(self.port))
        configuration = self.folder / "identity/mosquitto.conf"
        self._log = (folder / "site.log").open("wb")
        self._broker = self._start([find_mosquitto(), "-c", str(configuration)])
        self._hub: subprocess.Popen[bytes] | None = None

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def start_hub(self) -> None:
        """Starts the hub, and has the broker read who is enrolled."""
        self.let_in()
        self._hub = self._start(
            [sys.executable, "-m", "lineside", "hub", "run", "--config", str(self.folder / "hub.toml")]
        )

    def let_in(self) -> None:
        """Has the broker read who is enrolled."""
        self._broker.send_signal(signal.SIGHUP)

    def device(self) -> dict[str, Any]:
        """What the hub knows of the board; empty before it was ever there."""
        listed = json.loads(lineside("fleet", "ls", "--hub", self.folder, "--json"))["devices"]
        found: list[dict[str, Any]] = [row for row in listed if row["name"] == NAME]
        return found[0] if found else {}

    def stop(self) -> None:
        """Ends both."""
        for process in (self._hub, self._broker):
            if process is not None:
                process.terminate()
                process.wait(30)
        self._log.close()


class EmulatedBoard:
    """A board that is switched on and off."""

    def __init__(self, folder: Path, image: Path, port: int) -> None:
        self._folder, self.image, self._port = folder, image, port
        self.console = folder / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        with FatVolume(image, find(partitions(image), "bootfs", "fat")) as boot:
            (folder / "vmlinuz").write_bytes(boot.read("vmlinuz"))
            (folder / "initrd.img").write_bytes(boot.read("initrd.img"))
            self._append = boot.read("cmdline.txt").decode().strip()

    def on(self) -> None:
        """Gives it power."""
        command = emulator.command(
            self._folder / "vmlinuz",
            self._folder / "initrd.img",
            append=self._append,
            forward=(8883, self._port),
            console=self.console,
            memory_mib=1024,
            image=self.image,
        )
        self._process = subprocess.Popen(command)

    def cut(self) -> None:
        """Takes its power away."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


@pytest.fixture(scope="module")
def base() -> Path:
    """The Debian image that ``--build`` makes."""
    image = arm64.CACHE / f"debian-{build.SUITE}-arm64-{build.recipe()}.img"
    if not image.is_file():
        arm64.CACHE.mkdir(parents=True, exist_ok=True)
        say("building the base image")
        build.build(image, say=say)
    return image


@pytest.fixture(scope="module")
def fleet(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, EmulatedBoard]]:
    """A site, and a board of one command that is switched on."""
    folder = tmp_path_factory.mktemp("fleet")
    payload, _ = arm64.agent()
    site = Site(folder)
    image = folder / "pi.img"
    begun = time.monotonic()
    printed = lineside(
        *(
            "board",
            "prepare",
            "--board",
            "qemu-virt",
            "--image",
            base,
            "--out",
            image,
            "--name",
            NAME,
            "--group",
            GROUP,
        ),
        *("--broker", f"mqtts://{emulator.HOST}:8883", "--hub", site.folder, "--bundle", "surface-12"),
        *("--payload", payload.path, "--camera", "folder:/opt/lineside/factory/golden"),
    )
    say(f"{printed.strip()} ({time.monotonic() - begun:.1f} s)")
    site.start_hub()
    board = EmulatedBoard(folder, image, site.port)
    try:
        board.on()
        yield site, board
    finally:
        board.cut()
        site.stop()


def joined(site: Site) -> bool:
    return bool(site.device().get("up"))


def test_board_joins_over_mutual_tls_and_its_results_arrive(fleet: tuple[Site, EmulatedBoard]) -> None:
    site, board = fleet
    begun = time.monotonic()
    wait_for(lambda: joined(site), JOIN_TIMEOUT_S, what=f"{NAME} in the fleet; console: {board.console}")
    say(f"power to joined: {time.monotonic() - begun:.1f} s")
    assert f"{NAME} login:" in board.console.read_text(errors="replace"), "cloud-init has named it"
    assert str(site.device()["installed"]).startswith("surface-12@")
    wait_for(lambda: site.device()["results"] >= 2, STEP_TIMEOUT_S, what="results at the hub")
    say(f"power to two results at the hub: {time.monotonic() - begun:.1f} s")


def test_pushed_bundle_becomes_active_without_a_hand_on_the_board(fleet: tuple[Site, EmulatedBoard]) -> None:
    site, _ = fleet
    begun = time.monotonic()
    lineside("push", "surface-12-float", "--hub", site.folder, "--group", GROUP)
    wait_for(lambda: _runs(site, "surface-12-float@1.0.0"), STEP_TIMEOUT_S, what="the pushed bundle")
    say(f"push to active: {time.monotonic() - begun:.1f} s")
    count = site.device()["results"]
    wait_for(lambda: site.device()["results"] > count, STEP_TIMEOUT_S, what="results of the new bundle")


def test_board_whose_power_is_cut_during_updates_always_comes_back(fleet: tuple[Site, EmulatedBoard]) -> None:
    site, board = fleet
    noise = random.Random(8)
    cuts = int(os.environ.get("LINESIDE_POWER_CUTS", "20"))
    for number in range(1, cuts + 1):
        wanted = ("surface-12", "surface-12-float")[number % 2]
        lineside("push", wanted, "--hub", site.folder, "--group", GROUP)
        wait_s = noise.uniform(0.2, 40)
        threading.Event().wait(wait_s)
        state = site.device().get("state")
        board.cut()
        begun = time.monotonic()
        board.on()
        wait_for(lambda name=wanted: _runs(site, f"{name}@1.0.0"), JOIN_TIMEOUT_S, what=f"{wanted} after cut {number}")
        say(f"cut {number} after {wait_s:.1f} s ({state}): {wanted} runs {time.monotonic() - begun:.0f} s later")
    board.cut()
    root = find(partitions(board.image), "rootfs", "ext4")
    run("e2fsck", "-fp", f"{board.image}?offset={root.start}", codes=(0, 1))  # 1: the journal was replayed


def _runs(site: Site, identity: str) -> bool:
    device = site.device()
    return bool(device.get("up")) and device.get("installed") == identity and device.get("state") == "active"
