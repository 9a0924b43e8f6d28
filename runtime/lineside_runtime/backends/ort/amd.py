"""AMD's GPUs for ONNX Runtime's MIGraphX provider: which there are, and whether ROCm is what the provider needs.

https://onnxruntime.ai/docs/execution-providers/MIGraphX-ExecutionProvider.html (``device_id``); GPUs in the kernel's
list: Linux' ``drivers/gpu/drm/amd/amdkfd/kfd_topology.c``. **Untested on hardware**; `lineside conformance ort --device
gpu:0` tests it. Without a GPU, ``tests/system/test_ort_migraphx.py`` runs AMD's own package.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from lineside_runtime.backend import Compatibility
from lineside_runtime.system import drivers

_TOPOLOGY = "sys/class/kfd/kfd/topology/nodes"
_LIBRARIES = re.compile(rb"lib(?:amdhip64|migraphx_c)\.so\.\d+")


def gpus(root: Path | str = "/") -> tuple[str, ...]:
    """Returns the architectures of the GPUs, such as ``gfx1100``, in the order of the kernel, which HIP counts in.

    Args:
        root: Where ``sys`` is.
    """
    nodes = sorted((Path(root) / _TOPOLOGY).glob("[0-9]*"), key=lambda node: int(node.name))
    return tuple(name for name in map(_architecture, nodes) if name)


def _architecture(node: Path) -> str:
    """Returns for example ``gfx90a``; empty for a processor, whose version is 0."""
    found = re.search(r"^gfx_target_version (\d+)$", drivers.read_text(node / "properties"), re.MULTILINE)
    version = int(found[1]) if found else 0
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}" if version else ""


def compatibility(versions: Mapping[str, str], root: Path | str = "/", provider: Path | None = None) -> Compatibility:
    """Returns whether the libraries of ROCm are there that the provider was linked with.

    Args:
        versions: What `Compatibility.versions` is to hold.
        root: Where ``opt``, ``sys`` and ``usr`` are.
        provider: The provider's library; ``None`` for that of the package.
    """
    base = Path(root)
    rocm = drivers.read_text(base / "opt/rocm/.info/version")
    found = {**versions, "ROCm": rocm, "amdgpu driver": drivers.module_version("amdgpu", root=root)}
    capi = Path(onnxruntime.__file__).parent / "capi"
    needed = _needed(provider or capi / "libonnxruntime_providers_migraphx.so")
    missing = [name for name in needed if not _is_there(name, base)]
    if missing:
        advice = f"the MIGraphX provider needs {' and '.join(missing)}: install the ROCm that has it, with migraphx"
        return Compatibility(found, False, advice)
    return Compatibility(found, True if needed else None)


def _needed(library: Path) -> list[str]:
    try:
        return sorted({name.decode() for name in _LIBRARIES.findall(library.read_bytes())})
    except OSError:
        return []


def _is_there(name: str, base: Path) -> bool:
    folders = [base / "opt/rocm/lib", *(base / folder for folder in drivers.LIBRARY_FOLDERS)]
    told = [Path(one) for one in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if one]
    nested = [inner for folder in folders for inner in folder.glob("*-linux-gnu*")]
    return any((folder / name).exists() for folder in (*folders, *nested, *told))
