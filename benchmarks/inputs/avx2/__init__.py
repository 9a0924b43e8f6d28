"""A process whose engines see an x86 with AVX2 and FMA, without AVX-512 and VNNI, on one that has them.

Engines choose their kernels by the instruction ``cpuid``, and only OpenVINO has a switch for that. So every ``cpuid``
in their libraries is replaced as they are loaded, and answered without those features (`cpuid.c`, beside this file);
all else runs natively. ``arch_prctl(ARCH_SET_CPUID)``, which would need no replacing, is refused where the processor or
the virtual machine cannot trap the instruction.

The processor stays what it is: its clock, caches and AVX2 units are not those of an older one. glibc is not replaced.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.smoke import scaled

LIBRARIES: Mapping[str, tuple[str, ...]] = scaled(
    {
        "onnxruntime": ("capi/onnxruntime_pybind11_state.*.so",),
        "openvino": ("libs/libopenvino.so.*", "libs/libopenvino_intel_cpu_plugin.so"),
        "ncnn": ("ncnn.*.so",),
        "MNN": ("../_mnncengine.*.so",),
        "ai_edge_litert": ("libLiteRt.so", "libpywrap_litert_common.so"),
    },
    smoke={"MNN": ("../_mnncengine.*.so",)},
)
"""Libraries with the kernels of each package; in a smoke run the one that is disassembled soonest."""
PROGRAMS = ("gcc", "objdump")
"""Debian: apt-get install gcc binutils."""


def missing() -> str:
    """Returns why it cannot be done here; empty if it can."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return "for Linux on x86-64"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def environment(folder: Path) -> dict[str, str]:
    """Returns the variables of such a process; what they name is built in the folder.

    Raises:
        FileNotFoundError: A package does not have the libraries that `LIBRARIES` names.
        subprocess.CalledProcessError: A library is not disassembled, or the compiler fails.
    """
    sites = [f'{{"{library.name}", 0x{at}}},\n' for library in _libraries() for at in _addresses(library)]
    (folder / "sites.h").write_text("".join(sites))
    target, source = folder / "cpuid.so", Path(__file__).with_name("cpuid.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", f"-I{folder}", source, "-o", target], check=True)
    return {"LD_AUDIT": str(target)}


def _libraries() -> list[Path]:
    found = []
    for package, patterns in LIBRARIES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for pattern in patterns:
            folder = (Path(spec.origin).parent / pattern).parent
            libraries = list(folder.glob(Path(pattern).name))
            if not libraries:
                raise FileNotFoundError(f"{package} has no {pattern}: correct LIBRARIES in {__file__}")
            found += libraries
    return found


def _addresses(library: Path) -> list[str]:
    """Returns where a library has the instruction, hexadecimal."""
    command: list[str | Path] = ["objdump", "--disassemble", "--no-show-raw-insn", library]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.partition(":")[0].strip() for line in text.splitlines() if line.endswith("\tcpuid")]
