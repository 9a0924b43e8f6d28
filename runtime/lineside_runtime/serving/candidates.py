"""Find the engines, devices and variants that may serve a bundle here, in the order in which they are tried.

Each is found when it is asked for: importing an engine costs memory and time, and where the first one serves, the
others are never imported.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lineside_runtime import registry
from lineside_runtime.backend import Backend, Executable, LoadOptions
from lineside_runtime.backends.common import versions
from lineside_runtime.bundle import Bundle, Manifest, Variant
from lineside_runtime.config import Config
from lineside_runtime.devices import KINDS, Device, DeviceKind
from lineside_runtime.errors import (
    ConfigError,
    DeviceError,
    IncompatibleBundleError,
    NoDeviceError,
)
from lineside_runtime.system import accelerator_hints

COMPILED_ON_THE_DEVICE = frozenset({"onnx", "openvino"})
"""Formats that an engine compiles for the device on which it loads them. Files of other formats were compiled for one
kind of device, or leave to the CPU what another device can't run without saying so."""

_ACCELERATORS: tuple[DeviceKind, ...] = tuple(kind for kind in KINDS if kind != "cpu")

if TYPE_CHECKING:
    OnAbsent = Callable[[str, DeviceError], None]


class PlacementCandidate(msgspec.Struct, frozen=True):
    """One way to run a bundle.

    Attributes:
        variant: The form of the model that it would load.
    """

    backend: Backend
    device: Device
    variant: Variant

    def load(self, bundle: Bundle, config: Config, *, profile: bool = False) -> Executable:
        """Loads the variant on the device.

        Raises:
            BundleIntegrityError: A file of the bundle was replaced since it was opened.
            LinesideError: As `Backend.load`.
        """
        libraries = config.operator_libraries.get(self.backend.name, ())
        options = LoadOptions(
            threads=config.threads,
            precision=self.variant.precision,
            cores=config.cores if self.device.kind == "cpu" else None,
            operator_libraries=tuple(Path(path) for path in libraries),
            profile=profile,
            inputs=bundle.manifest.inputs,
            outputs=bundle.manifest.outputs,
            mean=bundle.manifest.preprocess.mean,
            std=bundle.manifest.preprocess.std,
            whole=config.fallback_strategy == "error",
            calls=config.submit_workers,
        )
        return self.backend.load(bundle.verified_model(self.variant), self.device, options)

    def __str__(self) -> str:
        """Returns for example ``ort/cpu:0``."""
        return f"{self.backend.name}/{self.device}"


class CandidateChoice:
    """The candidates in the order in which they are tried, each searched for at its turn.

    Attributes:
        absent: Engine to the reason, for those that were asked for or come before a candidate, but can't be used.
        absent_device: The device that was asked for, if it comes before all candidates and is of an engine that is
            named and can't be used.
    """

    def __init__(
        self,
        candidates: Iterable[PlacementCandidate],
        absent: dict[str, DeviceError],
        last_resort: Iterable[PlacementCandidate] = (),
    ) -> None:
        """Takes what finds them.

        Args:
            candidates: In their order; taken one by one.
            absent: May grow while they are taken.
            last_resort: Those that follow only if all others fail.
        """
        self.absent = absent
        self.absent_device: Device | None = None
        self._candidates = iter(candidates)
        self._last_resort = iter(last_resort)
        self._found: list[PlacementCandidate] = []
        self._lock = threading.Lock()

    def at(self, index: int) -> PlacementCandidate | None:
        """Returns one candidate, finding as many as that takes; ``None`` if there are fewer."""
        with self._lock:
            while len(self._found) <= index:
                candidate = next(self._candidates, None) or next(self._last_resort, None)
                if candidate is None:
                    return None
                self._found.append(candidate)
            return self._found[index]

    @property
    def candidates(self) -> tuple[PlacementCandidate, ...]:
        """All of them, so that every engine that might serve is imported; the last resort only if there is no other."""
        with self._lock:
            self._found += self._candidates
            if not self._found:
                self._found += self._last_resort
            return tuple(self._found)

    def end(self) -> None:
        """Ends the search; found candidates stay.

        An open search refers to the session, by its callback for absent engines. Ending it breaks that reference cycle,
        so that a closed session's memory is freed at once.
        """
        with self._lock:
            self._candidates = self._last_resort = iter(())

    def reordered(self, candidates: Iterable[PlacementCandidate]) -> CandidateChoice:
        """Returns a choice with other candidates in front of the same last resort."""
        choice = CandidateChoice(candidates, self.absent, self._last_resort)
        choice.absent_device = self.absent_device
        return choice

    def after(self, firsts: Iterable[PlacementCandidate]) -> CandidateChoice:
        """Returns a choice with other candidates in front; these follow as they are found, each device once."""

        def chained() -> Iterator[PlacementCandidate]:
            given = set()
            for one in firsts:
                given.add(str(one))
                yield one
            yield from (one for one in itertools.chain(tuple(self._found), self._candidates) if str(one) not in given)

        return self.reordered(chained())

    def without(self, names: Collection[str]) -> CandidateChoice:
        """Returns a choice of all others, as they are found."""
        left = (one for one in itertools.chain(tuple(self._found), self._candidates) if str(one) not in names)
        return self.reordered(left)


def choose(
    manifest: Manifest,
    config: Config,
    *,
    level: int | None = None,
    share: float = 1.0,
    on_absent: OnAbsent | None = None,
) -> CandidateChoice:
    """Returns what may serve the bundle, by kind of device, then format, best first, then engine, then variant.

    Args:
        level: Wanted optimisation level; ``None`` for the manifest's order, best first.
        share: The model's share of the compute of everything that runs on this box, 0 to 1.
        on_absent: Called once for each engine that was to be asked and can't be used, when that turns out.

    Returns:
        At least one candidate.

    Raises:
        ConfigError: `Config.isolate` names an engine that isn't known, `Config.variant` a variant that isn't there.
        IncompatibleBundleError: The bundle has no variant of this level, or needs other engine versions.
        NoDeviceError: Nothing here can run it.
        DeviceError: ``fallback_strategy`` is ``error`` and an engine that was asked for by name can't be used.
    """
    _check_isolated(config)
    search = _Search(_named_first(manifest, of_level(manifest, level), config.variant), config, on_absent)
    search.note_missing_engines()
    kinds = kind_order(config, share)
    choice = CandidateChoice(
        search.walk(kinds, lambda: config.engines or registry.names_by_preference()),
        search.absent,
        search.walk(kinds, lambda: () if config.engines else registry.LAST_RESORT),
    )
    first = choice.at(0)
    if first is None:
        raise search.no_candidate_error(manifest)
    choice.absent_device = search.absent_device(kinds[: kinds.index(first.device.kind)], first.device.kind)
    return choice


def also_for(manifest: Manifest, kinds: Collection[DeviceKind]) -> Manifest:
    """Returns a manifest whose variants are for these kinds of device, too, where an engine compiles them there."""
    variants = tuple(
        msgspec.structs.replace(one, device_kinds=tuple(dict.fromkeys((*one.device_kinds, *kinds))))
        if one.format in COMPILED_ON_THE_DEVICE
        else one
        for one in manifest.variants
    )
    return msgspec.structs.replace(manifest, variants=variants)


def undeclared_candidates(manifest: Manifest, config: Config) -> tuple[PlacementCandidate, ...]:
    """Returns what may run the bundle on kinds of device that its variants are not for.

    Nobody has tried them with this bundle, so that they serve only where they were measured to be faster.

    Returns:
        Each device with its first fitting variant, which then is for that kind alone.
    """
    variants = _undeclared_variants(manifest, config)
    search = _Search(variants, msgspec.structs.replace(config, fallback_strategy="sequential"), None)
    found: list[PlacementCandidate] = []
    for kind in _ACCELERATORS:
        found += search.walk((kind,), partial(_engines_of, kind, config))
    return tuple(found)


def undeclared_names(manifest: Manifest, config: Config) -> tuple[str, ...]:
    """Returns what `undeclared_candidates` asks: engines; of ONNX Runtime, which is imported anyway, its devices."""
    names: list[str] = []
    for one in _undeclared_variants(manifest, config):
        for kind in one.device_kinds:
            names += [name for name in _engines_of(kind, config) if registry.may_read(name, one.format, kind)]
    found = [name for name in dict.fromkeys(names) if name != "ort" and registry.missing(name) is None]
    if "ort" in names:
        with contextlib.suppress(DeviceError):
            found += [f"ort/{device}" for device in engine_of("ort", config).probe() if device.kind != "cpu"]
    return tuple(found)


def _undeclared_variants(manifest: Manifest, config: Config) -> list[Variant]:
    variants: list[Variant] = []
    for one in _named_first(manifest, list(manifest.variants), config.variant):
        kinds = tuple(kind for kind in _ACCELERATORS if kind not in one.device_kinds)
        if kinds and one.format in COMPILED_ON_THE_DEVICE:
            variants.append(msgspec.structs.replace(one, device_kinds=kinds))
    return variants


def _engines_of(kind: DeviceKind, config: Config) -> list[str]:
    """Returns engines that are worth asking for a kind of device; those of other packages only if they are named."""
    if accelerator_hints.may_have(kind):
        return [*(config.engines or (name for name in registry.PREFERENCE if name not in registry.LAST_RESORT))]
    return [name for name in config.engines or () if name == "ort" or not registry.needs_hardware(name)]


def device_first(name: str, choice: CandidateChoice, manifest: Manifest, config: Config) -> CandidateChoice:
    """Returns a choice with one device in front, if it is here; only its engine is imported for that.

    Args:
        name: Engine and device, such as ``openvino/cpu:0``.
        choice: What else may serve.
    """
    engine = name.partition("/")[0]
    isolate = tuple(entry for entry in config.isolate if entry.partition("=")[0] == engine)
    alone = msgspec.structs.replace(config, engines=(engine,), isolate=isolate, fallback_strategy="sequential")

    def found() -> Iterator[PlacementCandidate]:
        with contextlib.suppress(NoDeviceError, IncompatibleBundleError):
            yield from (one for one in choose(manifest, alone).candidates if str(one) == name)

    return choice.after(found())


def only_devices(names: Collection[str], choice: CandidateChoice) -> CandidateChoice:
    """Returns a choice of named devices only: the others may not be used in this process, or were not measured.

    Raises:
        NoDeviceError: None of them is here.
    """
    found = [one for one in choice.candidates if str(one) in names]
    if not found:
        raise NoDeviceError(f"{' and '.join(names)} are not here")
    return choice.reordered(found)


def engine_of(name: str, config: Config) -> Backend:
    """Returns an engine, in a process of its own where `Config.isolate` says so.

    Raises:
        EngineMissingError: Not a known engine, or not installed.
        DeviceError: It is installed but does not start.
    """
    entry = _isolated(name, config)
    if entry is not None:
        from lineside_runtime.engine_process.engine import isolated  # only who isolates pays for it

        return isolated(entry, config.isolated_timeout_s)
    return registry.backend(name)


def _check_isolated(config: Config) -> None:
    if not config.isolate:
        return
    known = config.engines or (*registry.names(), *registry.BY_NAME_ONLY)
    strange = {entry.partition("=")[0] for entry in config.isolate} - set(known)
    if strange:
        raise ConfigError("isolate", expected=f"some of {', '.join(known)}", actual=", ".join(sorted(strange)))


def _isolated(name: str, config: Config) -> str | None:
    return next((entry for entry in config.isolate if entry.partition("=")[0] == name), None)


def kind_order(config: Config, share: float) -> tuple[DeviceKind, ...]:
    """Returns the kinds of device in the order in which a model with this share of the compute tries them."""
    return KINDS if share <= config.npu_threshold else ("gpu", "npu", "cpu")


def of_level(manifest: Manifest, level: int | None) -> list[Variant]:
    """Returns the bundle's variants of one optimisation level; all for ``None``.

    Raises:
        IncompatibleBundleError: It has none.
    """
    variants = [variant for variant in manifest.variants if level in (None, variant.level)]
    if not variants:
        raise IncompatibleBundleError(
            f"{manifest.identity} has no variant of optimisation level {level}",
            expected=f"one of {sorted({variant.level for variant in manifest.variants})}",
            actual=level,
            action="Ask for a level that it has, or build one with lineside.Optimizer(optimization_level=…).",
        )
    return variants


def variant_named(manifest: Manifest, name: str, *, where: str = "variant") -> Variant:
    """Returns the variant of a name.

    Raises:
        ConfigError: The bundle has none of that name.
    """
    for variant in manifest.variants:
        if variant.name == name:
            return variant
    raise ConfigError(
        f"{where}: {manifest.identity} has no {name!r}",
        expected=f"one of {', '.join(variant.name for variant in manifest.variants)}",
        action="`lineside bundle show` lists a bundle's variants.",
    )


def _named_first(manifest: Manifest, variants: list[Variant], name: str | None) -> list[Variant]:
    """Puts the named variant before the others, which stay for devices that can't run it."""
    if name is None:
        return variants
    first = variant_named(manifest, name)
    return sorted(variants, key=lambda variant: variant.name != first.name)


class _Search:
    """Searches candidates; imports an engine only in its turn, and only if it may have such devices."""

    def __init__(self, variants: list[Variant], config: Config, on_absent: OnAbsent | None) -> None:
        self.absent: dict[str, DeviceError] = {}
        self._variants = variants
        self._config = config
        self._on_absent = on_absent
        self._too_old: list[str] = []
        self._asked: dict[str, tuple[Backend | None, list[Device]]] = {}
        self._given: set[tuple[str, Device]] = set()

    def note_missing_engines(self) -> None:
        """Notes the engines that were asked for by name and are not installed, without importing the others."""
        for name in self._config.engines or ():
            error = None if _isolated(name, self._config) else registry.missing(name)
            if error is not None:
                self._note_absent(name, error)

    def walk(self, kinds: tuple[DeviceKind, ...], names: Callable[[], Iterable[str]]) -> Iterator[PlacementCandidate]:
        """Finds the candidates of these engines in their order."""
        for kind in kinds:
            if not any(kind in variant.device_kinds for variant in self._variants):
                continue
            for group in self._by_preference():
                for name in names():
                    if self._may_serve(name, kind, group):
                        yield from self._candidates(name, kind, group)

    def _by_preference(self) -> list[list[Variant]]:
        """Groups the variants: the caller's engines in his order, else the manifest's variants, best first.

        Lists, since Python keeps a freed tuple that a generator has filled: 200 bytes for each load of a bundle.
        """
        if self._config.engines is not None:
            return [self._variants]
        formats = dict.fromkeys(variant.format for variant in self._variants)
        return [[one for one in self._variants if one.format == each] for each in formats]

    def _may_serve(self, name: str, kind: DeviceKind, variants: list[Variant]) -> bool:
        formats = [variant.format for variant in variants if kind in variant.device_kinds]
        if not any(registry.may_read(name, one, kind) for one in formats):
            return False
        by_name = self._config.engines is not None
        return by_name or not registry.needs_hardware(name) or accelerator_hints.may_have(kind)

    def _candidates(self, name: str, kind: DeviceKind, variants: list[Variant]) -> Iterator[PlacementCandidate]:
        if name not in self._asked:
            self._asked[name] = self._ask(name)
        engine, devices = self._asked[name]
        for device in devices:
            variant = self._first_fitting(engine, device, variants) if engine and device.kind == kind else None
            if (
                engine
                and variant
                and (self._config.engines or not device.emulated)
                and (name, device) not in self._given
            ):
                self._given.add((name, device))
                yield PlacementCandidate(engine, device, variant)

    def _ask(self, name: str) -> tuple[Backend | None, list[Device]]:
        if name in self.absent:
            return None, []
        try:
            engine = engine_of(name, self._config)
            return engine, engine.probe()
        except DeviceError as error:
            self._note_absent(name, error)
            return None, []

    def _note_absent(self, name: str, error: DeviceError) -> None:
        if self._config.engines and self._config.fallback_strategy == "error":
            raise error
        self.absent[name] = error
        if self._on_absent is not None:
            self._on_absent(name, error)

    def absent_device(self, kinds: tuple[DeviceKind, ...], found: DeviceKind) -> Device | None:
        """Returns the first device of these kinds that only a named engine has that can't be used; ``None`` if none.

        Args:
            kinds: Those that come before what was found.
            found: Kind of the first candidate: an engine that can have such a device may mean it.
        """
        named = [registry.kinds(name) for name in self._config.engines or () if name in self.absent]
        return next((Device(kind, 0) for kind in kinds for own in named if kind in own and found not in own), None)

    def _first_fitting(self, engine: Backend, device: Device, variants: list[Variant]) -> Variant | None:
        for variant in variants:
            if variant.format in engine.formats and device.kind in variant.device_kinds:
                wanted = variant.requires.get(engine.package, "")
                if versions.allows(wanted, engine.version):
                    return variant
                self._too_old.append(f"{variant.name} needs {engine.package} {wanted}, here is {engine.version}")
        return None

    def no_candidate_error(self, manifest: Manifest) -> NoDeviceError | IncompatibleBundleError:
        """Returns the error that says why there is no candidate."""
        if self._too_old:
            return IncompatibleBundleError(
                f"{manifest.identity} does not fit the engines here: {'; '.join(dict.fromkeys(self._too_old))}",
                action="Install a version in the range that the variant names.",
            )
        forms = sorted({f"{variant.format} for {'/'.join(variant.device_kinds)}" for variant in manifest.variants})
        missing = {name: registry.missing(name) for name in self._config.engines or registry.names()}
        errors = {name: error for name, error in missing.items() if error is not None} | self.absent
        reasons = "; ".join(f"{name}: {error.message}" for name, error in errors.items())
        return NoDeviceError(
            f"nothing here runs {manifest.identity}", expected=", ".join(forms), actual=reasons or None
        )
