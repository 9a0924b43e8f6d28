"""A payload that is small and real: lineside of this tree, and the wheels that its commands on a board import."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from lineside_agent.deployment.self_update.environment import for_target
from lineside_agent.deployment.self_update.payload import MANIFEST_NAME, WHEELS, AgentManifest, Payload, open_payload
from lineside_runtime.bundle import describe_bytes
from tests.agent.deployment.self_update.wheels import bundle_files, pip_wheel, tree_files, write_wheel
from tests.boards.arm64 import made

BUNDLE = "surface-12"
"""The shipped bundle that lineside's wheel holds."""

PACKAGES = ("msgspec", "numpy", "packaging")


def board_python() -> str:
    """Version of this machine's ``/usr/bin/python3``, which a `SmallBoard` has as well."""
    command = ["/usr/bin/python3", "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except OSError:
        pytest.skip("no /usr/bin/python3 here for a board to have")


def small_payload(folder: Path, *, python: str = "", version: str = "1.0") -> Payload:
    """Makes the payload.

    Args:
        folder: A new one.
        python: Version that it says it is for; the board's if empty.
        version: Of lineside in it.
    """
    here = board_python()
    (folder / WHEELS).mkdir(parents=True)
    for wheel in (*_foreign(here).glob("*.whl"), pip_wheel()):
        shutil.copy2(wheel, folder / WHEELS / wheel.name)
    write_wheel(folder / WHEELS, "lineside", version, {**tree_files(), **bundle_files(BUNDLE)})
    manifest = AgentManifest(
        version=version,
        python=python or here,
        architecture=platform.machine(),
        files={f"{WHEELS}/{p.name}": describe_bytes(p.read_bytes()) for p in sorted((folder / WHEELS).iterdir())},
    )
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    return open_payload(folder)


def _foreign(python: str) -> Path:
    def fetch(folder: Path) -> None:
        options = [*for_target(python, platform.machine()), "--no-deps", "--dest", str(folder)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *options, *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        if done.returncode:
            pytest.skip(f"no package index here for the board's wheels: {done.stderr.strip()[-200:]}")

    return made(f"provision-{python}-{platform.machine()}", fetch)
