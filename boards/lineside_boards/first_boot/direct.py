"""Settings written into the root file system, for images without first-boot settings: JetPack's, Armbian's.

The system's first start (oem-config) creates the user; the SSH key is root's.
"""

from __future__ import annotations

from pathlib import Path

from lineside_boards.first_boot.firstrun import connection
from lineside_boards.first_boot.settings import FirstBootSettings


def lay_out(tree: Path, settings: FirstBootSettings) -> None:
    """Writes the settings into a tree that is copied into the image."""
    _write(tree / "etc/hostname", f"{settings.hostname}\n")
    if settings.ssh_keys:
        _write(tree / "root/.ssh/authorized_keys", "".join(f"{key}\n" for key in settings.ssh_keys), mode=0o600)
        (tree / "root").chmod(0o700)
        (tree / "root/.ssh").chmod(0o700)
    if settings.wifi is not None:
        where = tree / "etc/NetworkManager/system-connections/lineside.nmconnection"
        _write(where, connection(settings), mode=0o600)


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=mode)
    path.write_text(text)
    path.chmod(mode)
