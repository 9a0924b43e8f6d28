"""Detect the board from the kernel's files under a ``root``; tests give another root."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from pathlib import Path

UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class Board:
    """A board.

    Attributes:
        model: The maker's name, such as ``Raspberry Pi 5 Model B Rev 1.0``; ``unknown`` if there is none.
        compatible: Names of the device tree, the most specific first; empty on a PC.
        architecture: Such as ``aarch64``.
        cores: Number of CPU cores that this process may use.
        memory_bytes: Main memory; 0 if unknown.
    """

    model: str
    compatible: tuple[str, ...] = ()
    architecture: str = ""
    cores: int = 0
    memory_bytes: int = 0


def detect(root: Path | str = "/") -> Board:
    """Detects the board; ``root`` is the folder with ``proc`` and ``sys``."""
    base = Path(root)
    compatible = _text(base / "proc/device-tree/compatible")
    return Board(
        model=_model(base),
        compatible=tuple(name for name in compatible.split("\0") if name),
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(_text(base / "proc/meminfo")),
    )


def _model(base: Path) -> str:
    """Returns the model by the device tree, or by the firmware on a PC."""
    model = _text(base / "proc/device-tree/model").strip("\0 \n")
    if model:
        return model
    dmi = base / "sys/class/dmi/id"
    names = (_text(dmi / "sys_vendor").strip(), _text(dmi / "product_name").strip())
    return " ".join(name for name in names if name) or UNKNOWN


def _memory_bytes(meminfo: str) -> int:
    """``MemTotal`` of proc_meminfo(5), which counts in units of 1024 bytes."""
    match = re.search(r"^MemTotal:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _text(path: Path) -> str:
    """Reads a file that may be absent or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
