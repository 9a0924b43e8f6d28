"""Power is cut at random moments under an agent that inspects: what the line was told has its record, or says so.

::

    PLC here ──serial line──► agent on the Pi 5's core (qemu) ──mutual TLS──► mosquitto and hub here
                                └── disk that forgets all that wasn't flushed (`tests.boards.volatile`)

The card is the one that `lineside board prepare --build` makes. So that a start takes seconds, the agent is the first
program on it and not systemd's child (`test_board` has that). The PLC is a few lines on pyserial; both databases are
read by sqlite3, and nothing of the agent's or the hub's code has a say in the checks.

Counted from outside: every part that the PLC was told a verdict of. A part that was triggered and not answered when
power went is the line's to reject, and may or may not have reached the agent.

- ``LINESIDE_POWER_CUTS``: how often (default 20).
- ``LINESIDE_BOARD_FOLDER``: keep hub, card and what the line was told there; another run goes on with them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from lineside_boards.image import initramfs
from tests.boards import arm64, emulator
from tests.boards.powered import TRIGGERED, base_image, prepared, repaired_root
from tests.boards.site import NAME, BoardSite, say
from tests.boards.volatile import VolatileDisk
from tests.peers.waiting import wait_for
from tests.worlds.hub import query

pytestmark = pytest.mark.timeout(6 * 3600)

TIMEOUT_S = 3600
"""Of any wait. Generous: two emulated cores on a busy machine."""

STATE = "/var/lib/lineside"
LINE = f"""{TRIGGERED}
[[line_io]]
type = "serial"
port = "/dev/ttyAMA0"
"""

MODULES = ("failover", "net_failover", "virtio_net", "virtio_blk")

INIT = """#!/bin/sh
PATH=/bin
busybox mount -t proc proc /proc; busybox mount -t sysfs sysfs /sys; busybox mount -t devtmpfs dev /dev
for module in /mod/*.ko; do busybox insmod $module; done
for word in $(busybox cat /proc/cmdline); do case $word in now=*) busybox date -s @${word#now=};; esac; done
busybox ip link set lo up; busybox ip link set eth0 up
busybox ip addr add 10.0.2.15/24 dev eth0; busybox ip route add default via 10.0.2.2
until busybox mount -t ext4 -o rw,noatime /dev/vda2 /newroot; do busybox usleep 100000; done
for one in proc sys dev; do busybox mount -o move /$one /newroot/$one; done
exec busybox switch_root /newroot /bin/sh -c '
    mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp; mkdir -p STATE
    exec >>/var/log/agent.log 2>&1 </dev/null
    exec /usr/bin/python3 -I /usr/lib/lineside/lineside_guard.py run -- agent run --config /etc/lineside/agent.toml'
""".replace("STATE", STATE)


class Plc:
    """Triggers parts one after the other, and counts what it is told.

    Args:
        first: Number of the first part.
        pauses: Between a verdict and the next part.
    """

    def __init__(self, first: int, pauses: random.Random) -> None:
        self.next = first
        self.told: dict[str, tuple[int, str]] = {}
        """Part to the line's number for it and its verdict."""
        self.heard: list[str] = []
        self.is_ready = threading.Event()
        self._pauses = pauses
        self._waits_for = ""
        self._may_trigger = False

    def serve(self, tty: str) -> None:
        """Works at a serial line until it ends."""
        with contextlib.suppress(OSError), serial.Serial(tty, 115200, timeout=0.2) as port:
            buffer = b""
            while True:
                buffer += port.read(max(port.in_waiting, 1))
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    self._hear(line.decode("ascii", errors="replace").split(), port)

    def _hear(self, words: list[str], port: serial.Serial) -> None:
        self.heard.append(" ".join(words))
        if words[:1] == ["V"] and len(words) == 4:
            self.told[words[3]] = (int(words[1]), words[2])
            self._waits_for = ""
        if level := {"READY", "BUSY", "WAIT"}.intersection(words):  # also behind the rest of a line that was torn
            self._may_trigger = "READY" in level
        if self._may_trigger and not self._waits_for:
            self._may_trigger = False
            self.is_ready.set()
            threading.Event().wait(self._pauses.uniform(0, 0.3))
            self._waits_for = f"p-{self.next:06d}"
            self.next += 1
            port.write(f"T {self._waits_for}\n".encode())


class Board:
    """The emulated machine."""

    def __init__(self, folder: Path, image: Path, port: int) -> None:
        self._folder, self._image, self._port = folder, image, port
        self._disk = VolatileDisk(image, folder / "disk")
        self._kernel = next((arm64.kernel() / "boot").glob("vmlinuz-*"))
        busybox = (arm64.kernel() / "usr/bin/busybox").read_bytes()
        (folder / "initrd.img").write_bytes(initramfs.make(busybox, initramfs.pick(arm64.kernel(), MODULES), init=INIT))
        self._process: emulator.Running | None = None

    def on(self) -> str:
        """Gives it power; returns the name of its serial line here."""
        self._disk.on()
        command = emulator.command(
            self._kernel,
            self._folder / "initrd.img",
            append=f"console=null quiet loglevel=0 panic=-1 now={int(time.time())}",
            forward=(8883, self._port),
            console=None,
            memory_mib=1024,
            disk=self._disk.url,
        )
        self._process = emulator.Running(command, self._folder / "qemu.log")
        return self._process.terminal()

    def cut(self) -> None:
        """Takes its power away; what wasn't flushed is gone."""
        if self._process is not None:
            self._process.freeze()
            self._disk.cut()
            self._process.kill()
            self._process = None

    def files(self, folder: Path) -> Path:
        """Returns a folder with the store's files, as the next start will find them; the card itself isn't touched."""
        copy = folder / "copy.img"
        root = repaired_root(self._image, copy)
        state = folder / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        for name in root.entries(STATE):
            if name.startswith("records.db") and not name.endswith("-shm"):
                (state / name).write_bytes(root.read(f"{STATE}/{name}"))
        copy.unlink()
        return state


class Records:
    """The agent's database, read by sqlite3."""

    def __init__(self, state: Path) -> None:
        assert not [path for path in state.iterdir() if path.name not in ("records.db", "records.db-wal")], (
            "a database was set aside as damaged"
        )
        with contextlib.closing(sqlite3.connect(state / "records.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            self.rows = {
                seq: json.loads(body) for seq, body in connection.execute("SELECT seq, body FROM records ORDER BY seq")
            }
            self.meta = dict(connection.execute("SELECT key, value FROM meta"))

    @property
    def by_number(self) -> dict[int, dict[str, object]]:
        """The line's number to its record."""
        return {row["sequence"]: row for row in self.rows.values()}

    @property
    def unrecorded(self) -> int:
        """How many numbers say that they have no record."""
        return sum(str(row.get("error", "")).startswith("unrecorded") for row in self.rows.values())


def hub_rows(site: BoardSite) -> dict[tuple[str, int], tuple[str, int]]:
    """What the hub has committed: epoch and row to part and number."""
    rows = query(site.folder, "SELECT epoch, seq, part_id, sequence FROM results WHERE device = ?", NAME)
    return {(epoch, seq): (part, number) for epoch, seq, part, number in rows}


def check_told(records: Records, told: dict[str, tuple[int, str]]) -> int:
    """Holds what the line was told against the records; returns how many are said to be unrecorded."""
    numbers = sorted(records.by_number)
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "the numbers have a gap"
    words = {"pass": "PASS", "reject": "REJECT", "fault": "FAULT"}
    missing = 0
    for part, (number, verdict) in told.items():
        row = records.by_number.get(number)
        assert row is not None, f"{part}, the line's {number}, vanished without a trace"
        if str(row.get("error", "")).startswith("unrecorded"):
            missing += 1
        else:
            assert (row["part_id"], words[str(row["verdict"])]) == (part, verdict)
    return missing


def check_hub(records: Records, at_hub: dict[tuple[str, int], tuple[str, int]]) -> None:
    """Nothing that the hub has is missing on the board, or another there."""
    for (epoch, seq), (part, number) in at_hub.items():
        assert epoch == records.meta["epoch"], "one database from the first start on"
        row = records.rows.get(seq)
        assert row is not None, f"the hub has row {seq}, the board hasn't"
        assert (row["part_id"], row["sequence"]) == (part, number)
    acknowledged = int(records.meta["acked"])
    lost = [seq for seq in records.rows if seq <= acknowledged and (records.meta["epoch"], seq) not in at_hub]
    assert not lost, f"acknowledged, and not at the hub: {lost}"


@pytest.fixture
def line(tmp_path: Path) -> Iterator[tuple[BoardSite, Board]]:
    kept = os.environ.get("LINESIDE_BOARD_FOLDER")
    folder = Path(kept) if kept else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    base_image()
    site = BoardSite(folder)
    image = prepared(folder, site, LINE)
    site.start_hub()
    board = Board(folder, image, site.port)
    try:
        yield site, board
    finally:
        board.cut()
        site.stop()


def test_power_cuts_lose_no_part_without_a_trace(line: tuple[BoardSite, Board], tmp_path: Path) -> None:
    site, board = line
    cuts = int(os.environ.get("LINESIDE_POWER_CUTS", "20"))
    noise = random.Random(os.environ.get("LINESIDE_POWER_SEED", "6"))
    kept = site.folder.parent / "told.json"
    told: dict[str, tuple[int, str]] = {}
    if kept.exists():
        told = {part: (number, verdict) for part, (number, verdict) in json.loads(kept.read_text()).items()}
    first = 1 + max((int(part.removeprefix("p-")) for part in told), default=0)
    for number in range(1, cuts + 2):
        plc = Plc(first, noise)
        begun = time.monotonic()
        thread = threading.Thread(target=plc.serve, args=(board.on(),))
        thread.start()
        wait_for(plc.is_ready.is_set, TIMEOUT_S, what=f"Ready on the serial line: {plc.heard}", every_s=0.05)
        ready_s = time.monotonic() - begun
        # So many parts at least, however slow this machine is; the last start shows what the last cut has left.
        parts = noise.randrange(5) if number <= cuts else 3
        wait_for(lambda: len(plc.told) >= parts, TIMEOUT_S, what=f"{parts} verdicts: {plc.heard[-9:]}", every_s=0.05)  # noqa: B023
        threading.Event().wait(noise.uniform(0.0, 4.0))
        wait_s = time.monotonic() - begun - ready_s
        board.cut()
        thread.join(30)
        first = plc.next
        earlier = dict(told)
        told |= plc.told
        kept.write_text(json.dumps(told))
        records = Records(board.files(tmp_path))
        missing = check_told(records, earlier)
        check_hub(records, hub_rows(site))
        say(
            f"cut {number}: Ready after {ready_s:.1f} s, cut {wait_s:.1f} s later; {len(plc.told)} parts told, "
            f"{len(records.rows)} rows, {records.unrecorded} of them unrecorded, {missing} of these told; "
            f"{len(hub_rows(site))} at the hub, {records.meta['acked']} acknowledged"
        )
    assert len(told) > cuts, "parts were inspected between the cuts"
