"""The Python environment of the steps: the development environment, with NVIDIA's packages in front of it.

``.venv-gpu`` holds only what differs: ``onnxruntime-gpu`` in place of ``onnxruntime``, CUDA's libraries that torch has
not brought already, and TensorRT in the major version that this ONNX Runtime was linked with. Everything else is
imported from the environment that runs this. Nothing is installed where there is no GPU.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import site
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venv-gpu"
ONNXRUNTIME = {12: "onnxruntime-gpu[cuda,cudnn]>=1.20,<1.27", 13: "onnxruntime-gpu[cuda,cudnn]>=1.27,<2"}
"""By CUDA's major version: the wheels of the package index are built for 13 from 1.27 on."""

TENSORRT = "tensorrt-cu{cuda}>={major},<{next}"
PROVIDER = "onnxruntime/capi/libonnxruntime_providers_tensorrt.so"
LIBRARIES = ("nvidia/*/lib", "tensorrt_libs")
"""Folders of ``site-packages`` with shared libraries that ONNX Runtime's providers look for."""

SHARES = ("lineside_base.pth", "import site; site.addsitedir({path!r})\n")


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where steps run.

    Attributes:
        libraries: Folders for ``LD_LIBRARY_PATH``.
        notes: What could not be installed, and why.
    """

    python: Path
    libraries: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def here() -> Environment:
    """Returns the running environment."""
    return Environment(python=Path(sys.executable))


def wanted() -> tuple[str, ...]:
    """Returns what is installed where there is a GPU, TensorRT for an ONNX Runtime that needs its version 10."""
    return ONNXRUNTIME[13], tensorrt_requirement(major=10, cuda=13)


def onnxruntime_requirement(cuda: int) -> str:
    """Returns the package for a driver that serves this major version of CUDA."""
    return ONNXRUNTIME[min(max(cuda, min(ONNXRUNTIME)), max(ONNXRUNTIME))]


def tensorrt_requirement(*, major: int, cuda: int) -> str:
    """Returns the package of a major version of TensorRT for a major version of CUDA."""
    return TENSORRT.format(cuda=cuda, major=major, next=major + 1)


def prepare(cuda: str, *, limit_s: float, home: Path = HOME) -> Environment:
    """Makes the environment, or takes it as an earlier call has left it.

    Args:
        cuda: Version of CUDA that the driver serves.
        limit_s: How long installing may take.
    """
    ends_s = time.monotonic() + limit_s
    python, notes = home / "bin/python", []
    number = int(cuda.partition(".")[0])
    runtime = onnxruntime_requirement(number)
    mark = hashlib.sha256(repr((runtime, TENSORRT, number, sys.prefix)).encode()).hexdigest()
    stamp = home / ".made"
    if stamp.is_file() and stamp.read_text() == mark:
        return Environment(python=python, libraries=folders(home))
    layered(home)
    refused = install(python, [runtime], limit_s=ends_s - time.monotonic())
    if refused:
        notes.append(f"{runtime} can't be installed on {platform.machine()}: {refused}")
    major = linked_tensorrt(packages_of(home) / PROVIDER)
    if major:
        package = tensorrt_requirement(major=major, cuda=number)
        refused = install(python, [package], limit_s=ends_s - time.monotonic())
        if refused:
            notes.append(f"{package} can't be installed: {refused}")
    if not notes:
        stamp.write_text(mark)
    return Environment(python=python, libraries=folders(home), notes=tuple(notes))


def layered(home: Path) -> Path:
    """Makes an empty environment that imports everything else from the one that runs this; returns its interpreter."""
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    name, line = SHARES
    base = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (packages_of(home) / name).write_text("".join(line.format(path=path) for path in base))
    return home / "bin/python"


def packages_of(home: Path) -> Path:
    """Returns the folder where an environment's packages lie."""
    return home / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def install(python: Path, packages: Sequence[str], *, limit_s: float) -> str:
    """Installs packages; returns why they can't be, empty if they are."""
    command: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(limit_s, 0.01))
    except subprocess.TimeoutExpired:
        return f"not installed after {limit_s:.0f} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {done.returncode}"


def linked_tensorrt(provider: Path) -> int | None:
    """Returns the major version of TensorRT that ONNX Runtime's provider needs; ``None`` where there is none."""
    if not provider.is_file():
        return None
    found = re.search(rb"libnvinfer\.so\.(\d+)", provider.read_bytes())
    return int(found.group(1)) if found else None


def folders(home: Path) -> tuple[Path, ...]:
    """Returns the folders of shared libraries, the environment's own first."""
    places = (packages_of(home), *map(Path, site.getsitepackages()))
    return tuple(path for place in places for pattern in LIBRARIES for path in sorted(place.glob(pattern)))
