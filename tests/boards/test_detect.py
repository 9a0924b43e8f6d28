from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from lineside_boards.detect import UNKNOWN, detect

MEMINFO = "MemTotal:        8255520 kB\nMemFree:         5000000 kB\n"


def write(root: Path, files: dict[str, bytes]) -> Path:
    for relative, data in files.items():
        (root / relative).parent.mkdir(parents=True, exist_ok=True)
        (root / relative).write_bytes(data)
    return root


def test_raspberry_pi_says_its_name_in_the_device_tree(tmp_path: Path) -> None:
    files = {
        "proc/device-tree/model": b"Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/device-tree/compatible": b"raspberrypi,5-model-b\0brcm,bcm2712\0",
        "proc/meminfo": MEMINFO.encode(),
    }
    board = detect(write(tmp_path, files))
    assert board.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert board.compatible == ("raspberrypi,5-model-b", "brcm,bcm2712")
    assert board.memory_bytes == 8255520 * 1024


@pytest.mark.parametrize(
    ("vendor", "product", "model"),
    [
        (b"LENOVO\n", b"20XW\n", "LENOVO 20XW"),
        (b"QEMU\n", b"", "QEMU"),
        (b"", b"Box\n", "Box"),
    ],
)
def test_pc_says_its_name_in_the_firmware(tmp_path: Path, vendor: bytes, product: bytes, model: str) -> None:
    files = {"sys/class/dmi/id/sys_vendor": vendor, "sys/class/dmi/id/product_name": product}
    board = detect(write(tmp_path, files))
    assert (board.model, board.compatible) == (model, ())


def test_device_tree_comes_before_the_firmware_and_damaged_or_missing_files_are_no_reason_to_fail(
    tmp_path: Path,
) -> None:
    board = detect(tmp_path)
    assert (board.model, board.memory_bytes, board.compatible) == (UNKNOWN, 0, ())
    files = {"proc/device-tree/model": b"Jetson\0", "sys/class/dmi/id/product_name": b"PC\n"}
    assert detect(write(tmp_path, files)).model == "Jetson"
    for data in (b"", b"\xff\xfe\0\0", b"MemTotal: lots kB\n"):
        damaged = write(tmp_path, {"proc/meminfo": data, "proc/device-tree/compatible": data})
        assert detect(damaged).memory_bytes == 0


def test_this_machine_can_be_described() -> None:
    board = detect()
    assert board.model
    assert board.architecture == os.uname().machine
    assert board.cores == len(os.sched_getaffinity(0))
    physical_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert board.memory_bytes == pytest.approx(physical_bytes, rel=0.01)
    assert dataclasses.is_dataclass(board)
