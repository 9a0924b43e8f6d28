"""What OpenVINO needs besides itself for Intel's GPUs and NPUs, and whether it is here.

https://docs.openvino.ai/2025/get-started/install-openvino/configurations.html: the GPU plug-in speaks OpenCL
(``libOpenCL``, and Intel's driver ``libigdrcl`` behind it), the NPU plug-in Level Zero (``libze_loader``, and Intel's
``libze_intel_npu`` behind it, formerly ``libze_intel_vpu``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from lineside_runtime.backend import Compatibility
from lineside_runtime.devices import DeviceKind
from lineside_runtime.system import accelerators, drivers

LIBRARIES: dict[DeviceKind, dict[str, tuple[str, ...]]] = {
    "gpu": {"OpenCL loader": ("libOpenCL",), "Level Zero GPU driver": ("libze_intel_gpu",)},
    "npu": {"Level Zero loader": ("libze_loader",), "NPU driver": ("libze_intel_npu", "libze_intel_vpu")},
}
"""Kind of device to what it needs, each with the names that its library has had."""


def compatibility(versions: Mapping[str, str], usable: Collection[DeviceKind], root: Path | str = "/") -> Compatibility:
    """Says whether each Intel GPU and NPU of this machine is one that OpenVINO can use.

    Args:
        versions: What is known already.
        usable: The kinds of device that OpenVINO finds.
        root: Where ``sys`` and ``usr`` are.
    """
    here = [one for one in accelerators.find(root) if "openvino" in one.engines]
    found = dict(versions)
    for kind in dict.fromkeys(one.kind for one in here):
        for title, stems in LIBRARIES.get(kind, {}).items():
            found[title] = next(filter(None, (drivers.library_version(stem, root=root) for stem in stems)), "")
    idle = [one for one in here if one.kind not in usable]
    advice = "; ".join(f"OpenVINO doesn't see the {one.name}, which needs {one.needs}" for one in idle)
    return Compatibility(found, not idle if here else None, advice)
