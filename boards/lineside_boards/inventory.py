"""`Inventory`: everything that ``lineside board detect`` reports.

The caller probes the engines (`lineside_runtime.system.probing.probe`), because that takes seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from lineside_boards import machine_state, profile
from lineside_boards.detect import UNKNOWN, detect
from lineside_boards.machine_state import CameraState, Storage
from lineside_runtime import registry
from lineside_runtime.backends.common.versions import allows
from lineside_runtime.bundle import Bundle, Variant
from lineside_runtime.system import accelerators, drivers, probing
from lineside_runtime.system.accelerators import Accelerator
from lineside_runtime.system.probing import EngineReport


class FoundAccelerator(msgspec.Struct, frozen=True, kw_only=True):
    """An accelerator, and whether something here can use it.

    Attributes:
        name: Such as ``Hailo-8``.
        kind: ``npu`` or ``gpu``.
        where: Bus and address.
        driver: The kernel driver that is bound to it; empty if none is.
        engines: The engines that could use it, best first.
        usable: Whether an installed engine detects it.
        versions: Of drivers and libraries, by engine; an empty text if not found.
        fits: Whether these are compatible; ``None`` if unknown.
        advice: What to do if it is unusable or they are incompatible.
    """

    name: str
    kind: str
    where: str
    driver: str
    engines: tuple[str, ...]
    usable: bool
    versions: dict[str, str] = {}
    fits: bool | None = None
    advice: str = ""


class VariantMatch(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a variant of a bundle can run here.

    Attributes:
        engine: The engine that would run it; empty if there is none.
        reason: Why not; empty if it can.
    """

    variant: str
    engine: str = ""
    reason: str = ""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a machine.

    Attributes:
        board: Name of the most specific profile that matches; ``unknown`` if none does.
        profiles: All that match, the most specific first.
        model: The maker's name.
        architecture: Such as ``aarch64``.
        cores: CPU cores that may be used.
        jetson_release: Of Jetson Linux; empty on other systems.
        accelerators: That the kernel sees.
        engines: Probe results; empty if they were not probed.
        cameras: That the kernel sees.
        storage: The disk with the root.
        temperature_c: Of the hottest zone; ``None`` if there is none.
        throttling: Reasons for a reduced clock; ``None`` if unknown.
        clock_synchronised: Whether the network has set the clock; ``None`` if unknown.
        bundle: Which variants of a given bundle could run here; ``None`` if none was given.
    """

    board: str
    profiles: tuple[str, ...]
    model: str
    architecture: str
    cores: int
    memory_bytes: int
    kernel: str
    jetson_release: str
    accelerators: tuple[FoundAccelerator, ...]
    engines: tuple[EngineReport, ...]
    cameras: tuple[CameraState, ...]
    storage: Storage
    temperature_c: float | None
    throttling: tuple[str, ...] | None
    clock_synchronised: bool | None
    bundle: tuple[VariantMatch, ...] | None = None


def take(
    root: Path | str = "/", *, engines: Sequence[EngineReport] = (), bundle: Bundle | None = None, machine: str = ""
) -> Inventory:
    """Takes the inventory of a machine.

    Args:
        root: Folder with ``proc``, ``sys``, ``dev`` and ``etc``.
        bundle: Its variants are matched with the engines.
        machine: The architecture, if ``root`` is another machine's.
    """
    board = detect(root)
    board = dataclasses.replace(board, architecture=machine or board.architecture)
    found = accelerators.find(root)
    installed = [report.name for report in engines if report.available]
    fitting = tuple(one.name for one in profile.matching(board, _names(found, engines), installed))
    unused = probing.unused(found, engines)
    return Inventory(
        board=fitting[0] if fitting else UNKNOWN,
        profiles=fitting,
        model=board.model,
        architecture=board.architecture,
        cores=board.cores,
        memory_bytes=board.memory_bytes,
        kernel=drivers.kernel(root),
        jetson_release=drivers.jetson_release(root),
        accelerators=tuple(_judged(one, engines, unused.get(one, "")) for one in found),
        engines=tuple(engines),
        cameras=machine_state.cameras(root),
        storage=machine_state.storage(root),
        temperature_c=machine_state.temperature_c(root),
        throttling=machine_state.throttling(root),
        clock_synchronised=machine_state.clock_synchronised(root),
        bundle=tuple(_match(one, engines) for one in bundle.manifest.variants) if bundle is not None else None,
    )


def _names(found: Iterable[Accelerator], reports: Sequence[EngineReport]) -> set[str]:
    """Returns the accelerators' names; an engine may know one better, as HailoRT tells a Hailo-8L from a Hailo-8."""
    names: set[str] = set()
    for one in found:
        devices = [device for report in reports if report.name in one.engines for device in report.devices]
        names |= {device.name for device in devices if device.name.startswith(one.name)} or {one.name}
    return names


def _judged(one: Accelerator, reports: Iterable[EngineReport], hint: str) -> FoundAccelerator:
    mine = [report for report in reports if report.name in one.engines]
    versions = {name: version for report in mine for name, version in report.versions.items()}
    told = [report.fits for report in mine if report.fits is not None]
    advice = [hint, *(report.advice for report in mine if report.fits is False)]
    return FoundAccelerator(
        name=one.name,
        kind=one.kind,
        where=one.where,
        driver=one.driver,
        engines=one.engines,
        usable=not hint,
        versions=versions,
        fits=all(told) if told else None,
        advice="; ".join(word for word in advice if word),
    )


def _match(variant: Variant, reports: Iterable[EngineReport]) -> VariantMatch:
    reasons = []
    for report in reports:
        if not any(registry.may_read(report.name, variant.format, kind) for kind in variant.device_kinds):
            continue
        misfit = _misfit(variant, report)
        if not misfit:
            return VariantMatch(variant=variant.name, engine=report.name)
        reasons.append(f"{report.name}: {misfit}")
    return VariantMatch(
        variant=variant.name, reason="; ".join(reasons) or f"no engine was asked that reads {variant.format}"
    )


def _misfit(variant: Variant, report: EngineReport) -> str:
    if not report.available:
        return report.reason or "not installed"
    for name, wanted in variant.requires.items():
        version = report.versions.get(name, "")
        if name in report.versions and not allows(wanted, version):
            return f"wants {name} {wanted}, here is {version}"
    kinds = {device.kind for device in report.devices if not device.unusable}
    if kinds.isdisjoint(variant.device_kinds):
        return f"has no {' or '.join(variant.device_kinds)} here"
    return ""
