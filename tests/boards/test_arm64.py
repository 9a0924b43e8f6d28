"""T2: Debian's arm64 kernel and an initramfs of ours start on qemu's board with the Pi 5's core and reach a broker.

It says nothing of a board's speed. What a board computes is in `tests/system/test_arm64_engines.py`.
"""

from __future__ import annotations

from pathlib import Path

from lineside_boards import profile
from lineside_boards.detect import Board
from tests.boards import emulator


def test_board_of_the_pis_core_boots_and_its_message_arrives(tmp_path: Path) -> None:
    took_s, message = emulator.boot_to_message(tmp_path)
    print(f"power to the message on the host: {took_s:.1f} s")
    compatible, machine, memory_kib, gpio = message.split(";")
    found = Board("qemu", tuple(compatible.split()), machine, memory_bytes=int(memory_kib) * 1024)
    assert [one.name for one in profile.matching(found, ())] == ["qemu-virt"]
    assert gpio == "/dev/gpiochip0", "the PL061 that rejects are signalled on"
