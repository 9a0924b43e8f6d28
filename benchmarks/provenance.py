"""What a result file says of its origin: commit, machine, load, versions, and a hash of the measured sources."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path

import msgspec

from lineside_runtime.benchmark.machine import machine

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    *("lineside", "numpy", "onnx", "onnxruntime", "openvino", "ai-edge-litert", "ncnn", "mnn", "torch", "ray"),
    *("opencv-python-headless", "paho-mqtt", "amqtt", "pymodbus", "redis", "psycopg"),
)
INSTRUCTIONS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Processor flags on which the speed of INT8 depends; ``asimddp`` is the dot product of NEON."""


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """The measured files.

    Attributes:
        paths: Tracked files and folders, relative to the repository.
        sha256: As `sources_sha256`.
    """

    paths: tuple[str, ...]
    sha256: str


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Date, machine, versions and sources of a result.

    Attributes:
        date: UTC, ISO 8601, when the benchmark began.
        commit: Full hash; empty outside a git checkout.
        dirty: A tracked file outside ``benchmarks/results`` differed from the commit.
        processor: Model name.
        instructions: Those of `INSTRUCTIONS` that the processor has.
        cores: That the process may use.
        board: Model name from the device tree or the firmware; empty where neither has one.
        system: Operating system and kernel.
        load_average: Of 1, 5 and 15 minutes, before the benchmark began.
        packages: Installed package to version.
        seconds: That the benchmark took.
    """

    date: str
    commit: str
    dirty: bool
    command: str
    processor: str
    instructions: tuple[str, ...]
    cores: int
    memory_mb: int
    board: str
    system: str
    load_average: tuple[float, float, float]
    python: str
    packages: dict[str, str]
    seconds: float
    sources: Sources


def collect(command: str, paths: Sequence[str]) -> Provenance:
    """Describes this machine and checkout before a benchmark begins; ``seconds`` is 0 until it has ended."""
    here = machine()
    return Provenance(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=_git("rev-parse", "HEAD").strip(),
        dirty=bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")),
        command=command,
        processor=here.cpu,
        instructions=_instructions(Path("/proc/cpuinfo")),
        cores=here.cores,
        memory_mb=here.memory_mb,
        board=here.board,
        system=here.system,
        load_average=os.getloadavg(),
        python=sys.version.split()[0],
        packages=_versions(),
        seconds=0.0,
        sources=Sources(paths=tuple(paths), sha256=sources_sha256(paths)),
    )


def sources_sha256(paths: Sequence[str], *, root: Path = ROOT) -> str:
    """Returns the hash of the names and contents of all tracked files at or under some paths, in the working tree.

    Of a Python file only the code counts: a figure does not age by a line of comment, a docstring or a blank line.

    Args:
        paths: Relative to ``root``, with ``/``.
        root: Of the repository. Outside a git checkout all files count but those of ``__pycache__``.
    """
    found = hashlib.sha256()
    for name in _files(paths, root):
        content = (root / name).read_bytes()
        content_sha256 = hashlib.sha256(_code(content) if name.endswith(".py") else content).hexdigest()
        found.update(f"{name}\0{content_sha256}\n".encode())
    return found.hexdigest()


@functools.cache
def _code(content: bytes) -> bytes:
    """Returns a Python file without docstrings, lines of comment and blank lines."""
    lines = content.decode().split("\n")
    inside: set[int] = set()
    docstrings: set[int] = set()
    nodes: list[ast.AST] = [ast.parse(content)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.expr):
            if node.lineno == node.end_lineno:
                continue  # most of a file's nodes, and no text of several lines is in them
            if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno:
                inside.update(range(node.lineno, node.end_lineno))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.end_lineno:
            docstrings.update(range(node.lineno - 1, node.end_lineno))
        nodes.extend(ast.iter_child_nodes(node))
    kept = (
        line
        for number, line in enumerate(lines)
        if number not in docstrings and line.strip() and (number in inside or not line.lstrip().startswith("#"))
    )
    return "\n".join(kept).encode()


def _files(paths: Sequence[str], root: Path) -> list[str]:
    """Returns the files that exist in the working tree, relative and sorted."""
    listed = set(_git("ls-files", "-z", "--", *paths, root=root).split("\0")) - {""}
    if not listed and not _git("rev-parse", "--git-dir", root=root):
        every = (each for path in paths for each in ((root / path), *(root / path).rglob("*")))
        listed = {each.relative_to(root).as_posix() for each in every if "__pycache__" not in each.parts}
    return sorted(name for name in listed if (root / name).is_file())


def _git(*words: str, root: Path = ROOT) -> str:
    """Returns what git prints; empty where there is no git or no checkout."""
    try:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def _instructions(cpuinfo: Path) -> tuple[str, ...]:
    lines = (line.partition(":") for line in cpuinfo.read_text().splitlines()) if cpuinfo.exists() else ()
    flags = {flag for name, _, value in lines if name.strip() in ("flags", "Features") for flag in value.split()}
    return tuple(name for name in INSTRUCTIONS if name in flags)


@functools.cache
def _versions() -> dict[str, str]:
    installed = {each.name: each.version for each in distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}
