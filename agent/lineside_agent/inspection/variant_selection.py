"""Time a bundle's variants on this device when it is staged, and choose the fastest.

A bundle whose manifest says ``speed: unproven`` holds the INT8 and the float form of a model that was not timed on such
a device; with ``by_level``, the variants of its first level are forms for different processors. Each is loaded and
timed with an input of one frame's shape, and the manifest's order is changed for this process.

A GPU or an NPU that the variants are not for, such as the GPU of a Jetson and a variant for CPUs, is timed too where an
engine can compile the variant for it. It serves only if it is faster and computes the golden outputs. It is measured
with its engine in a process of its own, since a driver that nobody has tried with the model may crash.

The result is written beside the slot's bundle as ``speed.json``, so that a restart does not measure again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from time import monotonic

import msgspec

from lineside_models.golden import replay
from lineside_runtime.bundle import Bundle, Manifest, Variant, sample_inputs
from lineside_runtime.config import Config
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import LinesideError, NoDeviceError
from lineside_runtime.files import write_atomic
from lineside_runtime.serving.candidates import PlacementCandidate, choose, undeclared_candidates, undeclared_names
from lineside_runtime.serving.fastest_candidate import median_ms
from lineside_runtime.serving.serving_plan import AS_CONFIGURED, ServingPlan
from lineside_runtime.session import Session

SUFFIX = ".speed.json"

LEAST_GAIN = 1.1
"""Speed, in terms of its first variant's, from which another variant of the same level replaces it: as the least gain
that the optimizer accepts for INT8."""

START_MAX_S = 30.0
"""Longest time to load a variant on a device that it is not for, with its first call: each start of the agent takes it.
ONNX Runtime's TensorRT provider, for one, compiles the model anew at each start."""

CALL_MAX_S = 60.0
"""Longest call of an engine in a process of its own; then the process is ended."""

log = logging.getLogger("lineside.agent")


class TimedVariant(msgspec.Struct, frozen=True, kw_only=True):
    """Time of one variant.

    Attributes:
        device: Device that ran it, such as ``ort/cpu:0``; empty if none can.
        ms: Median time of a warm call; ``None`` if no device can run it.
        why: Why no device can.
        undeclared: Whether the variant is not for this kind of device.
    """

    variant: str
    device: str = ""
    ms: float | None = None
    why: str = ""
    undeclared: bool = False


class FastestVariant(msgspec.Struct, frozen=True, kw_only=True):
    """Times of all variants on this device.

    Attributes:
        digest: Of the bundle.
        timed: Those that were measured: the chosen one, then the fastest first.
        others: What was asked for devices of kinds that the variants are not for; other engines are measured anew.
    """

    digest: str
    chosen: str
    timed: tuple[TimedVariant, ...]
    others: tuple[str, ...] = ()


def fastest_first(bundle: Bundle, config: Config, place: Path | None = None) -> tuple[Bundle, ServingPlan]:
    """Returns the bundle with its fastest variant here as the first, and how it is served.

    With ``by_level``, another one of the first level is the first only if it is `LEAST_GAIN` times as fast. Where the
    maker has measured, and no device of another kind is here, nothing is timed, and the bundle stays the same.

    Args:
        place: The file for the times; beside the bundle's folder if not given.

    Returns:
        As configured, unless the fastest variant is on a device that it is not for.
    """
    manifest = bundle.manifest
    others = undeclared_names(manifest, config)
    if not others and (manifest.speed == "measured" or len(manifest.to_time) < 2):
        return bundle, AS_CONFIGURED
    path = place or bundle.path.with_name(bundle.path.name + SUFFIX)  # inside, it would not be in the manifest
    found = _read(bundle, path, others) or _measure(bundle, config, path, others)
    position: dict[str, int] = {}
    for number, one in enumerate(found.timed):
        position.setdefault(one.variant, number)
    ordered = sorted(manifest.variants, key=lambda variant: position.get(variant.name, len(position)))
    first = found.timed[0]
    plan = plan_on(first.device, first.variant, config) if first.undeclared else AS_CONFIGURED
    return _with(bundle, tuple(ordered)), plan


def plan_on(device: str, variant: str, config: Config) -> ServingPlan:
    """Returns the plan of serving a variant on one device, such as ``ort/gpu:0``."""
    return ServingPlan(
        kind="device", devices=(device,), variant=variant, threads=config.threads, workers=config.submit_workers
    )


def widest_within(bundle: Bundle, config: Config, max_ms: float, *, device: str = "") -> Bundle:
    """Returns the bundle with the widest variant first whose warm call takes at most ``max_ms`` here.

    If none does, that is the fastest one. The others stay for fallback. A bundle without several widths stays as it is.

    Args:
        device: As for `time_variant`.
    """
    manifest = bundle.manifest
    usual, narrower = manifest.variants[0], [one for one in manifest.variants if one.is_narrow]
    if not narrower:
        return bundle
    timed: list[tuple[float, Variant]] = []
    for variant in (usual, *sorted(narrower, key=lambda one: -(one.width or 1.0))):
        took_ms = time_variant(bundle, variant, config, device=device).ms
        if took_ms is not None:
            timed.append((took_ms, variant))
        if took_ms is not None and took_ms <= max_ms:
            break
    if not timed:
        return bundle
    ms, chosen = timed[-1] if timed[-1][0] <= max_ms else min(timed, key=lambda one: one[0])
    log.log(
        logging.INFO if ms <= max_ms else logging.WARNING,
        "%s: %s is used, which takes %.2f ms here; max_ms is %g",
        manifest.identity,
        chosen.name,
        ms,
        max_ms,
    )
    return _with(bundle, (chosen, *(one for one in manifest.variants if one is not chosen)))


def only(bundle: Bundle, variant: Variant) -> Bundle:
    """Returns the bundle with one variant alone."""
    return _with(bundle, (variant,))


def _with(bundle: Bundle, variants: tuple[Variant, ...]) -> Bundle:
    return bundle.part(msgspec.structs.replace(bundle.manifest, variants=variants))


def _measure(bundle: Bundle, config: Config, path: Path, others: tuple[str, ...]) -> FastestVariant:
    manifest = bundle.manifest
    variants = manifest.variants[:1] if manifest.speed == "measured" else manifest.to_time
    timed = [
        *(time_variant(bundle, variant, config) for variant in variants),
        *_time_undeclared(bundle, variants, config, {name.partition("/")[0] for name in others}),
    ]
    able = sorted((one for one in timed if one.ms is not None), key=lambda one: one.ms or 0.0)
    if not able:
        raise NoDeviceError(
            f"nothing here runs {manifest.identity}", actual="; ".join(f"{one.variant}: {one.why}" for one in timed)
        )
    chosen = best_of(manifest, able)
    able.sort(key=lambda one: one is not chosen)
    found = FastestVariant(
        digest=bundle.digest,
        chosen=chosen.variant,
        timed=(*able, *(one for one in timed if one.ms is None)),
        others=others,
    )
    figures = ", ".join(f"{one.variant} {one.ms:.2f} ms on {one.device}" for one in able)
    unproven = manifest.speed == "unproven"
    said = "its speed was unproven" if unproven else "the fastest variant is chosen here"
    on = f" on {chosen.device}" if chosen.undeclared else ""
    level = logging.WARNING if unproven else logging.INFO
    log.log(level, "%s: %s; measured here: %s; %s is used%s", manifest.identity, said, figures, found.chosen, on)
    try:
        write_atomic(path, msgspec.json.encode(found))
    except (LinesideError, OSError) as error:
        log.warning("%s: the times are not kept, and are measured again at a restart: %s", bundle.path.name, error)
    return found


def _time_undeclared(
    bundle: Bundle, variants: Sequence[Variant], config: Config, engines: Collection[str]
) -> list[TimedVariant]:
    """Times variants on devices that they are not for; those with other golden outputs have the reason instead."""
    if not engines:
        return []
    from lineside_runtime.engine_process.engine import IsolatedBackend  # only where there is such a device

    named = {entry.partition("=")[0] for entry in config.isolate}
    isolate = (*config.isolate, *(name for name in sorted(engines) if name not in named))
    config = msgspec.structs.replace(config, isolate=isolate, isolated_timeout_s=CALL_MAX_S)
    timed: list[TimedVariant] = []
    for variant in variants:
        alone = only(bundle, variant)
        for candidate in undeclared_candidates(alone.manifest, config):
            one = _time(alone, candidate, config, undeclared=True)
            if one.ms is not None:
                one = _with_golden(bundle, config, one)
            if one.ms is None:
                log.warning("%s: %s on %s is not used: %s", bundle.manifest.identity, one.variant, one.device, one.why)
            timed.append(one)
            if isinstance(candidate.backend, IsolatedBackend):
                candidate.backend.close()
    return timed


def _with_golden(bundle: Bundle, config: Config, one: TimedVariant) -> TimedVariant:
    """Returns the times of a device, or why it is not used: another answered, or its golden outputs differ."""
    if bundle.manifest.golden is None:
        return one
    try:
        with Session(bundle, config, plan=plan_on(one.device, one.variant, config)) as session:
            used = replay(session, bundle).used_device
    except LinesideError as error:
        return msgspec.structs.replace(one, ms=None, why=error.message)
    return one if used == one.device else msgspec.structs.replace(one, ms=None, why=f"{used} answered in its place")


def best_of(manifest: Manifest, able: Sequence[TimedVariant]) -> TimedVariant:
    """Returns the variant to use.

    Args:
        able: Those that run here, fastest first.

    Returns:
        The fastest; with ``by_level`` the manifest's first one if the gain is less than `LEAST_GAIN`. On a device that
        it is not for, only with that gain over the best of the others.
    """
    fastest = able[0]
    declared = [one for one in able if not one.undeclared]
    if not declared:
        return fastest
    best = declared[0]
    if manifest.speed != "unproven":
        first = next((one for one in declared if one.variant == manifest.variants[0].name), best)
        best = best if (first.ms or 0.0) >= LEAST_GAIN * (best.ms or 0.0) else first
    return fastest if fastest.undeclared and (best.ms or 0.0) >= LEAST_GAIN * (fastest.ms or 0.0) else best


def time_variant(bundle: Bundle, variant: Variant, config: Config, *, device: str = "") -> TimedVariant:
    """Times one variant on this device.

    Args:
        device: Engine and device of a kind that the variant is not for, such as ``ort/gpu:0``; empty for the first
            that the configuration leads to.
    """
    alone = only(bundle, variant)
    try:
        if device:
            candidate = next((one for one in undeclared_candidates(alone.manifest, config) if str(one) == device), None)
        else:
            candidate = choose(alone.manifest, config).at(0)
    except LinesideError as error:
        return TimedVariant(variant=variant.name, why=str(error))
    if candidate is None:
        return TimedVariant(variant=variant.name, why="nothing here runs it")
    return _time(alone, candidate, config, undeclared=bool(device))


def _time(alone: Bundle, candidate: PlacementCandidate, config: Config, *, undeclared: bool) -> TimedVariant:
    name, inputs, began_s = alone.manifest.variants[0].name, sample_inputs(alone.manifest), monotonic()
    on = str(candidate) if undeclared else ""
    try:
        executable = candidate.load(alone, config)
        try:
            executable.run(inputs)
            start_s = monotonic() - began_s
            if undeclared and start_s > START_MAX_S:
                return TimedVariant(variant=name, device=on, why=f"it takes {start_s:.0f} s to start", undeclared=True)
            took_ms = median_ms(executable, inputs)
        finally:
            executable.close()
    except LinesideError as error:
        return TimedVariant(variant=name, device=on, why=str(error), undeclared=undeclared)
    return TimedVariant(variant=name, device=str(candidate), ms=took_ms, undeclared=undeclared)


def _read(bundle: Bundle, path: Path, others: tuple[str, ...]) -> FastestVariant | None:
    """Returns the times that an earlier start measured for this bundle and these engines; ``None`` without any."""
    try:
        found = decode_json(path.read_bytes(), type=FastestVariant)
    except (OSError, msgspec.DecodeError):
        return None
    return found if (found.digest, found.others) == (bundle.digest, others) else None
