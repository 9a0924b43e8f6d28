"""Compile the packages of this environment: ``python tests/ci/bytecode.py``.

pip compiles 18,000 files on one core in about 50 s. This uses all cores, and leaves out the packages' own tests and
what nothing here imports. What an earlier environment of the same packages has compiled is linked: uv links a package's
files too, so that they have the same time in each environment. Files that are no Python 3 are templates.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib.util
import os
import re
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

LEFT_OUT = re.compile(
    r"/(tests?|testing|_inductor|_vendor|benchmarks|checkpoint|combinatorics|elastic|networkx|nncf|"
    r"omegaconf|pennylane|pipelining|pydantic|pymdownx|ray/data|scipy|sparse|stats|torchgen|rllib|"
    r"sklearn|pandas|mypyc?|pip|physics|lexers|serve|orm|signal|transformers|uniprops|setuptools|"
    r"autoscaler|tune|llm|dashboard|async_api|narwhals|labs|distutils)/"
)


def compile_packages(folder: str, kept: Path) -> None:
    """Compiles what is below ``folder``.

    Args:
        folder: Relative to the working directory: above it, `LEFT_OUT` has no meaning.
        kept: Folder of the bytecode that environments share. Without hard links between the two nothing is shared.
    """
    missing = [source for source in _sources(folder) if not _has_bytecode(source, folder, kept)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(compileall.compile_file, quiet=2), missing, chunksize=16))
    for source in missing:
        bytecode, shared = _places(source, folder, kept)
        if _is_linked(source) and _is_of(bytecode, source):
            _link(bytecode, shared)


def _sources(folder: str) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        if not LEFT_OUT.search(f"{parent}/"):
            yield from (Path(parent, name) for name in names if name.endswith(".py"))


def _has_bytecode(source: Path, folder: str, kept: Path) -> bool:
    """Returns whether a source has its bytecode, by now."""
    bytecode, shared = _places(source, folder, kept)
    if not _is_of(bytecode, source) and _is_linked(source) and _is_of(shared, source):
        _link(shared, bytecode)
    return _is_of(bytecode, source)


def _places(source: Path, folder: str, kept: Path) -> tuple[Path, Path]:
    """Returns the paths of a source's bytecode, and of that which environments share."""
    bytecode = Path(importlib.util.cache_from_source(str(source)))
    return bytecode, kept / bytecode.relative_to(folder)


def _is_linked(source: Path) -> bool:
    """Returns whether a file may be that of another environment, too."""
    return source.stat().st_nlink > 1


def _is_of(bytecode: Path, source: Path) -> bool:
    """Returns whether bytecode is of this source, as Python tells by the file's header (PEP 552)."""
    found = source.stat()
    expected = struct.pack("<III", 0, int(found.st_mtime) & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF)
    with contextlib.suppress(OSError), bytecode.open("rb") as file:
        return file.read(16) == importlib.util.MAGIC_NUMBER + expected
    return False


def _link(file: Path, place: Path) -> None:
    """Gives a file a second name, in place of what has that name; does nothing where that cannot be."""
    temporary = place.with_name(f"{place.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.hardlink_to(file)
        temporary.replace(place)


if __name__ == "__main__":
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lineside" / "bytecode"
    compile_packages(os.path.relpath(Path(sys.prefix, "lib")), cache)
