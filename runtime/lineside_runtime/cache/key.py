"""Keys of cached results: a digest of all inputs, and of everything that decides the outputs.

A key is 32 bytes: 16 for what would compute (`namespace`), 16 for the inputs (`inputs_digest`). Two calls have the same
key only if their inputs are bit for bit the same, with the same names, shapes and types, and if the same variant of the
same bundle would run in the same version of the same engine, with the same operator libraries, on the same kind of
processor with as many threads on the same cores.
Anything less would not be exact: INT8 kernels round otherwise on processors with other instructions.

xxh3_128 does not resist an attacker, who can make two inputs with one hash. That gives no new power: who can feed
frames to this box can feed it an image of a good part. See ``docs/guides/program.md``.
"""

from __future__ import annotations

import functools
import os
import platform
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash

from lineside_runtime.config import Config
from lineside_runtime.serving.candidates import PlacementCandidate
from lineside_runtime.tensors import Array

VERSION = 1
"""Version of keys and values; a value of another version is never found."""


def namespace(bundle_digest: str, candidates: Sequence[PlacementCandidate], config: Config) -> bytes:
    """Returns a digest of 16 bytes of everything that decides a result beside the inputs.

    Args:
        candidates: Engine, device and variant that would compute it; several where a model runs in stages.
        config: What it would be loaded with.
    """
    facts = (VERSION, bundle_digest, [_facts(candidate, config) for candidate in candidates])
    return xxhash.xxh3_128_digest(msgspec.msgpack.encode(facts))


def _facts(candidate: PlacementCandidate, config: Config) -> tuple[object, ...]:
    device, engine = candidate.device, candidate.backend
    chip: tuple[object, ...] = (platform.machine(),)
    if device.kind == "cpu":  # engines take as many threads as there are cores, and divide them by the calls at once
        cores = (config.cores, config.replica_cores, config.stage_cores)
        chip = (processor(), config.threads or _core_count(), config.submit_workers, *cores)
    return (
        candidate.variant.name,
        candidate.variant.file,
        engine.name,
        engine.version,
        device.kind,
        device.name,
        [_content(path) for path in config.operator_libraries.get(engine.name, ())],
        *chip,
    )


def _content(library: str) -> bytes:
    """Returns a digest of a file's content; empty if it can't be read, as no engine loads it then."""
    try:
        return xxhash.xxh3_128_digest(Path(library).read_bytes())
    except OSError:
        return b""


def _core_count() -> int | None:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(os.getpid())) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@functools.cache
def processor() -> str:
    """Returns the architecture and instructions of this processor, by which engines choose their kernels."""
    found = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(errors="replace").splitlines()
        found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {found.partition(':')[2].strip() or platform.processor()}"


def inputs_digest(inputs: Mapping[str, Array]) -> bytes | None:
    """Returns 16 bytes for the inputs: names, types, shapes and every byte.

    Args:
        inputs: Array by input name; the order is of no matter.

    Returns:
        ``None`` where an input isn't made of bytes, such as an array of Python's strings.
    """
    parts = []
    for name in sorted(inputs) if len(inputs) > 1 else inputs:
        array = inputs[name]
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            return None
        parts.append(_described(name, array.dtype, array.shape) + _bytes_digest(array))
    return _digest(b"".join(parts))


_digest = xxhash.xxh3_128_digest


def _bytes_digest(array: Array) -> bytes:
    data: Any = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    return _digest(data)


@functools.lru_cache(maxsize=256)
def _described(name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    """Encodes name, type and shape unambiguously: lengths stand before what may vary."""
    texts = (name.encode(), dtype.str.encode())
    return struct.pack(f"<3I{len(shape)}q", len(texts[0]), len(texts[1]), len(shape), *shape) + b"".join(texts)
