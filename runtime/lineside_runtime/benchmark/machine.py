"""Describe the machine and the conditions of a measurement: processor, governor, throttling, load, versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec

from lineside_runtime.system.drivers import read_text
from lineside_runtime.system.packages import installed_version

PACKAGES = ("lineside", "numpy", "onnxruntime", "openvino", "ai-edge-litert", "tflite-runtime", "ncnn", "mnn", "torch")
"""Whose versions are recorded where they are installed; an engine tells its own beside."""

THROTTLED = Path("devices/platform/soc/soc:firmware/get_throttled")
"""The Raspberry Pi's word on under-voltage and heat: hexadecimal bits, the low half for now."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Machine(_Strict, frozen=True, kw_only=True):
    """What doesn't change during a measurement.

    Attributes:
        cpu: Model name of the processor.
        board: What the device tree or the firmware calls it; empty where neither says.
        cores: That this process may use.
        system: Operating system and kernel.
        packages: Installed package to version.
    """

    cpu: str
    board: str
    cores: int
    memory_mb: int
    system: str
    python: str
    packages: dict[str, str]


class Conditions(_Strict, frozen=True, kw_only=True):
    """What may change during a measurement; ``None`` or empty where this machine doesn't report it.

    Attributes:
        governor: Of the processor's clock, such as ``performance``.
        clock_mhz: Least and highest of the cores at this moment.
        clock_max_mhz: That the cores may reach.
        temperature_c: The hottest sensor.
        throttled: What says that the machine was slowed down by heat or voltage: bits on a Raspberry Pi, or how
            often an Intel core was.
        load: Running processes, mean of the last minute.
        stolen_s: Seconds that the cores were given to other virtual machines since the start.
    """

    governor: str = ""
    clock_mhz: tuple[float, float] | None = None
    clock_max_mhz: float | None = None
    temperature_c: float | None = None
    throttled: str = ""
    load: float | None = None
    stolen_s: float | None = None


def machine(root: Path = Path("/")) -> Machine:
    """Describes this machine, or the one whose ``/proc`` and ``/sys`` lie under ``root``."""
    return Machine(
        cpu=_field(root / "proc/cpuinfo", "model name") or _field(root / "proc/cpuinfo", "Model") or platform.machine(),
        board=read_text(root / "proc/device-tree/model") or read_text(root / "sys/class/dmi/id/product_name"),
        cores=len(os.sched_getaffinity(0)),
        memory_mb=int((_field(root / "proc/meminfo", "MemTotal") or "0").split()[0]) // 1024,
        system=platform.platform(),
        python=platform.python_version(),
        packages=_versions(),
    )


def conditions(root: Path = Path("/")) -> Conditions:
    """Reads the conditions of this moment."""
    cores = root / "sys/devices/system/cpu"
    clocks = [int(value) / 1000 for value in _each(cores, "cpu[0-9]*/cpufreq/scaling_cur_freq")]
    limits = [int(value) / 1000 for value in _each(cores, "cpu[0-9]*/cpufreq/cpuinfo_max_freq")]
    heat = [int(value) / 1000 for value in _each(root / "sys/class/thermal", "thermal_zone*/temp")]
    load = read_text(root / "proc/loadavg").split()
    # user nice system idle iowait irq softirq steal
    stolen = read_text(root / "proc/stat").partition("\n")[0].split()[1:]
    return Conditions(
        governor=", ".join(sorted(set(_each(cores, "cpu[0-9]*/cpufreq/scaling_governor")))),
        clock_mhz=(min(clocks), max(clocks)) if clocks else None,
        clock_max_mhz=max(limits, default=None),
        temperature_c=max(heat, default=None),
        throttled=_throttled(root),
        load=float(load[0]) if load else None,
        stolen_s=int(stolen[7]) / os.sysconf("SC_CLK_TCK") if len(stolen) > 7 else None,
    )


def remarks(before: Conditions, after: Conditions, seconds: float, cores: int) -> tuple[str, ...]:
    """Returns what disturbed a measurement; empty if nothing is known."""
    found = []
    if after.throttled != before.throttled:
        found.append(f"throttled while measuring: {before.throttled or 'no'} → {after.throttled}")
    elif "now" in after.throttled:
        found.append(f"throttled: {after.throttled}")
    if after.governor and after.governor != "performance":
        found.append(f"the clock's governor is {after.governor}, not performance: short calls may run at a low clock")
    if before.stolen_s is not None and after.stolen_s is not None:
        share = (after.stolen_s - before.stolen_s) / max(seconds * cores, 1e-9)
        if share > 0.02:
            found.append(f"other virtual machines took {share:.0%} of the cores' time")
    if before.load is not None and before.load > 0.5 * cores:
        found.append(f"other processes were running at the start: load {before.load:.1f} on {cores} cores")
    return tuple(found)


def _throttled(root: Path) -> str:
    bits = read_text(root / "sys" / THROTTLED)
    if bits:
        value = int(bits, 16)
        return f"now ({bits})" if value & 0xF else f"since its start ({bits})" if value else ""
    counts = [
        int(value) for value in _each(root / "sys/devices/system/cpu", "cpu[0-9]*/thermal_throttle/core_throttle_count")
    ]
    return f"{sum(counts)} times since its start" if any(counts) else ""


def _versions() -> dict[str, str]:
    versions = {name: installed_version(name) for name in PACKAGES}
    return {name: version for name, version in versions.items() if version}


def _each(folder: Path, pattern: str) -> list[str]:
    return [text for path in sorted(folder.glob(pattern)) if (text := read_text(path))]


def _field(path: Path, name: str) -> str:
    lines = read_text(path).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
