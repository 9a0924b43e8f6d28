"""The disk of the power-cut tests does what they rest on, asked by another NBD client (qemu-io)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.boards.volatile import VolatileDisk
from tests.peers.programs import find_program

SECTORS = 1 << 20


def test_disk_whose_power_is_cut_has_what_was_flushed_and_nothing_else(tmp_path: Path) -> None:
    qemu_io = find_program("qemu-io", "qemu-utils")
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(SECTORS))
    disk = VolatileDisk(image, tmp_path / "disk")
    disk.on()
    steps = ("write -P 7 0 4096", "flush", "write -P 8 0 4096", "write -P 9 8192 4096", "read -P 8 0 4096")
    command = [find_program("stdbuf", "coreutils"), "-oL", qemu_io, "-f", "raw", "-t", "none"]
    command += [part for step in (*steps, "sleep 600000") for part in ("-c", step)]
    client = subprocess.Popen([*command, disk.url], stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout is not None
        said = next(line for line in client.stdout if line.startswith(("read", "Pattern")))
        assert said.startswith("read 4096/4096"), "before the cut the client reads what it wrote"
        disk.cut()
    finally:
        client.kill()
        client.communicate()
        disk.cut()
    found = image.read_bytes()
    assert found[:4096] == bytes([7]) * 4096, "what was flushed, and not what was written behind it"
    assert found[4096:] == bytes(SECTORS - 4096)
