"""Parts of arm64 systems for tests: fetched once with this machine's own apt and pip, kept in ``.cache/boards``.

Nothing here is run for the other processor while it is made: packages are only unpacked.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lineside_agent.deployment.self_update.environment import for_target
from lineside_agent.deployment.self_update.pack import pack
from lineside_agent.deployment.self_update.payload import Payload, open_payload
from lineside_agent.service.install import install
from lineside_boards.errors import ImageError
from lineside_boards.image.build import SUITE, debian_mirror
from tests.peers.programs import find_program

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/boards"
WHEELS = CACHE / "wheels"
BYTECODE = CACHE / "bytecode"
"""Of what has run for the board: to compile it under emulation takes seconds for each program."""

PYTHON, EXTRAS = "3.13", ("gpio",)
TIMEOUT_S = 240

MEAN_ERROR_MAX = 0.08
"""Mean difference of an output from the one on x86, as a share of its mean magnitude, where engines round otherwise.

Signed activations differ as much (0.05) between two optimization levels of ONNX Runtime on one machine. Unsigned ones
with weights of 7 bits are exact."""


def sysroot() -> Path:
    """Returns Debian's Python and C library for arm64, unpacked."""
    program = find_program("mmdebstrap", "mmdebstrap")

    def make(folder: Path) -> None:
        packages = "python3,libpython3-stdlib,libstdc++6,libgcc-s1,libc6,base-files,ca-certificates"
        command = [program, "--arch=arm64", "--variant=extract", '--aptopt=Acquire::Languages "none"']
        run([*command, f"--include={packages}", SUITE, str(folder), _mirror()])

    return made(f"sysroot-{SUITE}", make)


def kernel() -> Path:
    """Returns a folder with Debian's arm64 cloud kernel and static busybox, unpacked."""

    def make(folder: Path) -> None:
        apt = _private_apt(folder.parent / ".apt")
        found = subprocess.run(
            [apt[0].replace("apt-get", "apt-cache"), *apt[1:], "depends", "linux-image-cloud-arm64"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        image = next(line.split()[1] for line in found.splitlines() if "Depends: linux-image-" in line)
        folder.mkdir()
        run([*apt, "download", image, "busybox-static"], cwd=folder)
        for package in list(folder.glob("*.deb")):
            run(["dpkg-deb", "--extract", str(package), str(folder)])
            package.unlink()

    find_program("dpkg-deb", "dpkg")
    return made(f"kernel-{SUITE}", make)


@functools.cache
def payload() -> Payload:
    """Returns a payload of this source tree for arm64, with what `qemu-virt` carries.

    What it needs is fetched once; lineside's own wheel is built once a run of the tests.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="payload-", dir=CACHE))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with (CACHE / ".agent.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _packed(folder / "payload", WHEELS)


def agent() -> tuple[Payload, Path]:
    """Returns `payload`, and a system's tree with it in slot ``a``, which is made anew when it has changed."""
    packed = payload()
    with (CACHE / ".agent.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree = CACHE / f"agent-{packed.digest[:16]}"
        if not (tree / ".whole").exists():
            for old in (*CACHE.glob("agent-*"), BYTECODE):
                shutil.rmtree(old, ignore_errors=True)
            install(tree, payload=packed, foreign=True)
            (tree / ".whole").touch()
    return packed, tree


def _packed(folder: Path, wheels: Path) -> Payload:
    """Packs from the wheels that were fetched the last time; where they don't do any more, from the index."""
    from lineside_runtime.errors import StagingError

    if wheels.is_dir():
        try:
            return pack(folder, wheels=wheels, python=PYTHON, extras=EXTRAS)
        except StagingError:
            shutil.rmtree(wheels)
            shutil.rmtree(folder, ignore_errors=True)
    pack(folder, python=PYTHON, extras=EXTRAS)
    shutil.copytree(folder / "wheels", wheels)
    for own in wheels.glob("lineside-*.whl"):
        own.unlink()
    return open_payload(folder)


def package(name: str, version: str) -> Path:
    """Returns a folder with a package of the index for the board's Python, unpacked."""

    def make(folder: Path) -> None:
        wheels = folder.with_suffix(".wheels")
        options = [*for_target(PYTHON, "aarch64"), "--no-deps", "--dest", str(wheels)]
        run([sys.executable, "-m", "pip", "download", "--quiet", *options, f"{name}=={version}"])
        for wheel in wheels.glob("*.whl"):
            shutil.unpack_archive(wheel, folder, "zip")
        shutil.rmtree(wheels)

    return made(f"{name}-{version}-aarch64", make)


def run_there(tree: Path, *words: str, more: Path | None = None) -> str:
    """Runs the board's Python under emulation with the payload's packages, and ``more``; returns what it says."""
    emulator, system = find_program("qemu-aarch64-static", "qemu-user-static"), sysroot()
    done = subprocess.run(
        [emulator, "-cpu", "cortex-a76", "-L", str(system), str(system / f"usr/bin/python{PYTHON}"), *words],
        capture_output=True,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(map(str, filter(None, (site_packages(tree), more)))),
            "PYTHONPYCACHEPREFIX": str(BYTECODE),
        },
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def mean_error(found: npt.ArrayLike, wanted: npt.ArrayLike) -> float:
    return float(np.abs(np.subtract(found, wanted)).mean() / np.abs(wanted).mean())


def site_packages(tree: Path) -> Path:
    """Returns the folder of the slot's packages."""
    return tree / f"opt/lineside/slots/a/venv/lib/python{PYTHON}/site-packages"


def run(command: list[str], *, cwd: Path | None = None) -> None:
    """Runs a program; its words are in the failure."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def made(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made under another name first, and by one test process only."""
    CACHE.mkdir(parents=True, exist_ok=True)
    whole = CACHE / name
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.is_dir():
            half = CACHE / f".{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            make(half)
            half.replace(whole)
    return whole


def _mirror() -> str:
    try:
        return debian_mirror()
    except ImageError as error:
        pytest.skip(f"no Debian packages here: {error}")


def _private_apt(home: Path) -> list[str]:
    """apt for another architecture, with folders of its own: this machine's packages aren't touched."""
    program = find_program("apt-get", "apt")
    for part in ("lists/partial", "cache/archives/partial"):
        (home / part).mkdir(parents=True, exist_ok=True)
    (home / "status").touch()
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    if not Path(key).is_file():
        pytest.skip("no key of Debian's archive here (package debian-archive-keyring)")
    (home / "sources.list").write_text(f"deb [arch=arm64 signed-by={key}] {_mirror()} {SUITE} main\n")
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        "Acquire::Languages": "none",
        "Dir::Etc::SourceList": f"{home}/sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": str(home),
        "Dir::State::Lists": f"{home}/lists",
        "Dir::State::Status": f"{home}/status",
        "Dir::Cache": f"{home}/cache",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    run([program, "-q", *options, "update"])
    return [program, "-q", *options]
