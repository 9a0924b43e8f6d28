"""lineside's wheel for a device: without the shipped bundles that only a host uses."""

from __future__ import annotations

import zipfile
from pathlib import Path

from lineside_models import zoo

_HOST_ONLY = tuple(f"lineside_models/zoo/{name}/" for name in zoo.HOST_ONLY)


def write_device_wheel(wheel: Path, folder: Path) -> Path:
    """Writes a copy of a wheel without the bundles of `zoo.HOST_ONLY`, and returns it.

    Args:
        folder: Of the copy, which has the wheel's name; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            if entry.filename.startswith(_HOST_ONLY):
                continue
            data = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):  # pip installs what it lists
                lines = data.decode().splitlines(keepends=True)
                data = "".join(line for line in lines if not line.lstrip('"').startswith(_HOST_ONLY)).encode()
            copy.writestr(entry, data, compress_type=entry.compress_type)
    return target
