"""Which engine, device and variant may serve a bundle here, in the order in which they are tried."""

from __future__ import annotations

import dataclasses

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from lineside_runtime import registry
from lineside_runtime.backend import Backend
from lineside_runtime.bundle import Manifest, Variant
from lineside_runtime.config import Config
from lineside_runtime.devices import KINDS, Device, DeviceKind
from lineside_runtime.errors import (
    BundleFormatError,
    ConfigError,
    DeviceError,
    IncompatibleBundleError,
    NoDeviceError,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a bundle.

    Attributes:
        backend: The engine.
        device: One of its devices.
        variant: The form of the model that it would load.
    """

    backend: Backend
    device: Device
    variant: Variant

    def __str__(self) -> str:
        """Returns for example ``ort/cpu:0``."""
        return f"{self.backend.name}/{self.device}"


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """The candidates, and the engines that had to be left out.

    Attributes:
        candidates: In the order in which they are tried; at least one.
        absent: Engine to the reason, for those that are known or asked for but can't be used.
    """

    candidates: tuple[Candidate, ...]
    absent: dict[str, DeviceError]


def choose(manifest: Manifest, config: Config, *, level: int | None = None, share: float = 1.0) -> Choice:
    """Returns what may serve the bundle, by kind of device, then engine, then variant.

    Args:
        manifest: Of the bundle.
        config: The user's.
        level: Wanted optimisation level; ``None`` for the manifest's order, best first.
        share: The model's share of the compute of everything that runs on this box, 0 to 1.

    Raises:
        ConfigError: `Config.isolate` names an engine that isn't known.
        IncompatibleBundleError: The bundle has no variant of this level, or needs other engine versions.
        NoDeviceError: Nothing here can run it.
        DeviceError: ``fallback_strategy`` is ``error`` and an engine that was asked for by name can't be used.
    """
    variants = _of_level(manifest, level)
    absent: dict[str, DeviceError] = {}
    found: list[Candidate] = []
    too_old: list[str] = []
    known = config.engines or registry.names()
    strange = {entry.partition("=")[0] for entry in config.isolate} - set(known)
    if strange:
        raise ConfigError("isolate", expected=f"some of {', '.join(known)}", actual=", ".join(sorted(strange)))
    for name in known:
        try:
            engine = engine_of(name, config)
            devices = engine.probe()
        except DeviceError as error:
            if config.engines and config.fallback_strategy == "error":
                raise
            absent[name] = error
            continue
        for device in devices:
            found += _first_fitting(engine, device, variants, too_old)
    if not found:
        raise _nothing(manifest, absent, too_old)
    order = kind_order(config, share)
    return Choice(tuple(sorted(found, key=lambda candidate: order.index(candidate.device.kind))), absent)


def engine_of(name: str, config: Config) -> Backend:
    """Returns an engine, in a process of its own where `Config.isolate` says so.

    Raises:
        EngineMissingError: Not a known engine, or not installed.
        DeviceError: It is installed but does not start.
    """
    for entry in config.isolate:
        if entry.partition("=")[0] == name:
            from lineside_runtime.isolated.engine import isolated  # only who isolates pays for it

            return isolated(entry, config.isolated_timeout_s)
    return registry.backend(name)


def kind_order(config: Config, share: float) -> tuple[DeviceKind, ...]:
    """Returns the kinds of device in the order in which a model with this share of the compute tries them."""
    return KINDS if share <= config.npu_threshold else ("gpu", "npu", "cpu")


def _of_level(manifest: Manifest, level: int | None) -> tuple[Variant, ...]:
    variants = tuple(variant for variant in manifest.variants if level in (None, variant.level))
    if not variants:
        raise IncompatibleBundleError(
            f"{manifest.identity} has no variant of optimisation level {level}",
            expected=f"one of {sorted({variant.level for variant in manifest.variants})}",
            actual=level,
            action="Ask for a level that it has, or build one with lineside.Optimizer(optimization_level=…).",
        )
    return variants


def _first_fitting(
    engine: Backend, device: Device, variants: tuple[Variant, ...], too_old: list[str]
) -> list[Candidate]:
    for variant in variants:
        if variant.format in engine.formats and device.kind in variant.device_kinds:
            wanted = variant.requires.get(engine.package, "")
            if _allows(wanted, engine.version):
                return [Candidate(engine, device, variant)]
            too_old.append(f"{variant.name} needs {engine.package} {wanted}, here is {engine.version}")
    return []


def _allows(wanted: str, version: str) -> bool:
    try:
        return SpecifierSet(wanted).contains(version, prereleases=True)
    except InvalidSpecifier as error:
        raise BundleFormatError(f"requires: {error}", expected="a version range such as >=1.20,<2") from error


def _nothing(
    manifest: Manifest, absent: dict[str, DeviceError], too_old: list[str]
) -> NoDeviceError | IncompatibleBundleError:
    if too_old:
        return IncompatibleBundleError(
            f"{manifest.identity} does not fit the engines here: {'; '.join(dict.fromkeys(too_old))}",
            action="Install a version in the range that the variant names.",
        )
    forms = sorted({f"{variant.format} for {'/'.join(variant.device_kinds)}" for variant in manifest.variants})
    reasons = "; ".join(f"{name}: {error.message}" for name, error in absent.items())
    return NoDeviceError(f"nothing here runs {manifest.identity}", expected=", ".join(forms), actual=reasons or None)
