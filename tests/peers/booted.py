"""A small Debian with systemd as its first process, in namespaces of its own: no virtual machine, no container manager.

Made by ``mmdebstrap`` once and kept (``.cache-booted``, which git ignores); each test boots a copy of its own.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.peers.programs import find_program, left_out
from tests.peers.waiting import wait_for

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".venv-booted"
"""Under a name that git ignores already."""

BOOT = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
mount --bind /dev "$1/dev"
cd "$1"
mkdir -p .old
pivot_root . .old
umount -l /.old
exec env -i container=lineside PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd --system --show-status=0
"""


def make_root(folder: Path, *packages: str) -> Path:
    """Returns a fresh Debian of this machine's architecture, with systemd and Python.

    Args:
        folder: A new one.
        packages: More of Debian's packages in it.
    """
    find_program("mmdebstrap", "mmdebstrap")
    whole = CACHE / "-".join(["root", *packages])
    if not whole.is_dir():
        CACHE.mkdir(exist_ok=True)
        new = CACHE / f"new-{whole.name}"
        shutil.rmtree(new, ignore_errors=True)
        include = ",".join(["systemd", "python3", "dbus", *packages])
        command = ["mmdebstrap", "--variant=minbase", f"--include={include}", "trixie", str(new)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            left_out(f"no Debian can be unpacked here: {done.stderr.strip()[-300:]}")
        new.rename(whole)
    subprocess.run(["cp", "-a", "--reflink=auto", str(whole), str(folder)], check=True)
    return folder


class Booted:
    """A system that runs.

    Args:
        root: Its files.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        kinds = ["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        self._child = subprocess.Popen(
            ["unshare", *kinds, "sh", "-c", BOOT, "boot", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Booted:
        wait_for(lambda: self.run("systemctl", "is-system-running") in ("running", "degraded"), 120.0, what="the boot")
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()  # and with the first process all others of its namespace
        self._child.wait()

    def run(self, *command: str) -> str:
        """Runs a command inside and returns what it prints."""
        first = subprocess.run(["pgrep", "-P", str(self._child.pid)], capture_output=True, text=True).stdout.split()
        if not first:
            return ""
        inside = ["nsenter", "-t", first[0], "-m", "-p", "-u", "-i", "-C", *command]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=300)
        return (done.stdout + done.stderr).strip()

    def show(self, unit: str, what: str) -> str:
        """Returns a property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", what, unit)
