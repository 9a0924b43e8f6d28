"""Small real wheels and payloads, made in a moment: lineside's packages from this tree, or a program of a few lines."""

from __future__ import annotations

import compileall
import ensurepip
import functools
import platform
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from py_compile import PycInvalidationMode

import msgspec

from lineside_agent.deployment.self_update.payload import (
    MANIFEST_NAME,
    WHEELS,
    AgentManifest,
    Payload,
    open_payload,
    running_python,
)
from lineside_runtime.bundle import describe_bytes
from tests.boards.arm64 import made

ROOT = Path(__file__).parents[4]
DEVICE_PACKAGES = {
    "lineside": ".",
    "lineside_agent": "agent",
    "lineside_boards": "boards",
    "lineside_link": "link",
    "lineside_models": "models",
    "lineside_runtime": "runtime",
}
BASE_PYTHON = str(Path(sys.base_prefix) / "bin" / f"python{running_python()}")
"""Stands for the system's Python of a board."""


def write_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, bytes], *, requires: Sequence[str] = ()
) -> Path:
    """Writes a wheel (PEP 427) of pure Python."""
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content = {**files, **about}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for place, data in content.items():
            archive.writestr(place, data)
        lines = [*(f"{place},," for place in content), f"{info}/RECORD,,"]
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, ""]))
    return path


@functools.cache
def tree_files() -> dict[str, bytes]:
    """The device's packages as they lie in this tree, without the shipped bundles."""
    found: dict[str, bytes] = {}
    for package, place in DEVICE_PACKAGES.items():
        base = ROOT / place
        for path in sorted((base / package).rglob("*")):
            relative = path.relative_to(base)
            if path.is_file() and "__pycache__" not in relative.parts and "zoo" not in relative.parts:
                found[relative.as_posix()] = path.read_bytes()
    return found


def bundle_files(name: str) -> dict[str, bytes]:
    """A shipped bundle as lineside's wheel holds it."""
    base = ROOT / "models"
    folder = base / "lineside_models/zoo" / name
    return {path.relative_to(base).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tree_wheel(folder: Path, version: str, changes: Mapping[str, bytes] | None = None) -> Path:
    """lineside's wheel of this tree under another version, with some files exchanged or added.

    It holds the packages that are changed. The others, and what all need, are found where this process finds them, by a
    ``.pth`` file: pip takes seconds to unpack and compile them.
    """
    held = {name.partition("/")[0] for name in changes or {}}
    files = {name: data for name, data in tree_files().items() if name.partition("/")[0] in held}
    places = {str(ROOT / place) for package, place in DEVICE_PACKAGES.items() if package not in held}
    places |= {sysconfig.get_paths()["purelib"], *(p for p in sys.path if p.endswith("site-packages"))}
    others = "\n".join(sorted(places)).encode()
    return write_wheel(folder, "lineside", version, {**files, "others.pth": others, **(changes or {})})


def program_wheel(folder: Path, version: str, source: str) -> Path:
    """A wheel called lineside that is one program: what ``python -m lineside`` runs."""
    return write_wheel(
        folder, "lineside", version, {"lineside/__init__.py": b"", "lineside/__main__.py": source.encode()}
    )


def pip_wheel() -> Path:
    """Python's own copy of pip; Debian keeps it in a folder of its own."""
    own, debian = Path(ensurepip.__file__).parent / "_bundled", sysconfig.get_config_var("WHEEL_PKG_DIR")
    (found, *_) = (path for folder in (own, debian) if folder for path in sorted(Path(folder).glob("pip-*.whl")))
    return found


def compiled_pip() -> Path:
    """`pip_wheel` with bytecode of this Python: each run of pip would compile what it imports, for a second."""
    found = pip_wheel()

    def make(folder: Path) -> None:
        content = folder / "content"
        shutil.unpack_archive(found, content, "zip")
        compileall.compile_dir(content, quiet=2, legacy=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        archive = shutil.make_archive(str(folder / "pip"), "zip", content)
        Path(archive).rename(folder / found.name)
        shutil.rmtree(content)

    return made(f"{found.stem}-{sys.implementation.cache_tag}", make) / found.name


def make_payload(folder: Path, wheel: Path, *, architecture: str | None = None, python: str | None = None) -> Payload:
    """Makes a payload of one wheel and pip."""
    (folder / WHEELS).mkdir(parents=True)
    for source in (wheel, compiled_pip()):
        shutil.copy2(source, folder / WHEELS / source.name)
    manifest = AgentManifest(
        version=wheel.name.split("-")[1],
        python=python or running_python(),
        architecture=architecture or platform.machine(),
        files={f"{WHEELS}/{p.name}": describe_bytes(p.read_bytes()) for p in sorted((folder / WHEELS).iterdir())},
    )
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    return open_payload(folder)
