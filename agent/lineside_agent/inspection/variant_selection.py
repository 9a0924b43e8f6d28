"""Time a bundle's variants on this device when it is staged, and choose the fastest.

A bundle whose manifest says ``speed: unproven`` holds the INT8 and the float form of a model that was not timed on such
a device; with ``by_level``, the variants of its first level are forms for different processors. Each is loaded and
timed with an input of one frame's shape, and the manifest's order is changed for this process. The result is written
beside the slot's bundle as ``speed.json``, so that a restart does not measure again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lineside_runtime.bundle import Bundle, Manifest, Variant, sample_inputs
from lineside_runtime.config import Config
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import LinesideError, NoDeviceError
from lineside_runtime.files import write_atomic
from lineside_runtime.serving.candidates import choose
from lineside_runtime.serving.fastest_candidate import median_ms

SUFFIX = ".speed.json"

LEAST_GAIN = 1.1
"""Speed, in terms of its first variant's, from which another variant of the same level replaces it: as the least gain
that the optimizer accepts for INT8."""

log = logging.getLogger("lineside.agent")


class TimedVariant(msgspec.Struct, frozen=True, kw_only=True):
    """Time of one variant.

    Attributes:
        device: Device that ran it, such as ``ort/cpu:0``; empty if none can.
        ms: Median time of a warm call; ``None`` if no device can run it.
        why: Why no device can.
    """

    variant: str
    device: str = ""
    ms: float | None = None
    why: str = ""


class FastestVariant(msgspec.Struct, frozen=True, kw_only=True):
    """Times of all variants on this device.

    Attributes:
        digest: Of the bundle.
        timed: Those that were measured: the chosen one, then the fastest first.
    """

    digest: str
    chosen: str
    timed: tuple[TimedVariant, ...]


def fastest_first(bundle: Bundle, config: Config, place: Path | None = None) -> Bundle:
    """Returns the bundle with its fastest variant here as the first; the same bundle if its maker has measured.

    With ``by_level``, another one of the first level is the first only if it is `LEAST_GAIN` times as fast.

    Args:
        place: The file for the times; beside the bundle's folder if not given.
    """
    if bundle.manifest.speed == "measured" or len(bundle.manifest.to_time) < 2:
        return bundle
    path = place or bundle.path.with_name(bundle.path.name + SUFFIX)  # inside, it would not be in the manifest
    found = _read(bundle, path) or _measure(bundle, config, path)
    position = {one.variant: number for number, one in enumerate(found.timed)}
    ordered = sorted(bundle.manifest.variants, key=lambda variant: position.get(variant.name, len(position)))
    return _with(bundle, tuple(ordered))


def widest_within(bundle: Bundle, config: Config, max_ms: float) -> Bundle:
    """Returns the bundle with the widest variant first whose warm call takes at most ``max_ms`` here.

    If none does, that is the fastest one. The others stay for fallback. A bundle without several widths stays as it is.
    """
    manifest = bundle.manifest
    usual, narrower = manifest.variants[0], [one for one in manifest.variants if one.is_narrow]
    if not narrower:
        return bundle
    timed: list[tuple[float, Variant]] = []
    for variant in (usual, *sorted(narrower, key=lambda one: -(one.width or 1.0))):
        took_ms = time_variant(bundle, variant, config).ms
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
    return Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, variants=variants), bundle.digest)


def _measure(bundle: Bundle, config: Config, path: Path) -> FastestVariant:
    timed = [time_variant(bundle, variant, config) for variant in bundle.manifest.to_time]
    able = sorted((one for one in timed if one.ms is not None), key=lambda one: one.ms or 0.0)
    if not able:
        raise NoDeviceError(
            f"nothing here runs {bundle.manifest.identity}",
            actual="; ".join(f"{one.variant}: {one.why}" for one in timed),
        )
    best = best_of(bundle.manifest, able)
    able.sort(key=lambda one: one is not best)
    found = FastestVariant(
        digest=bundle.digest, chosen=able[0].variant, timed=(*able, *(one for one in timed if one.ms is None))
    )
    figures = ", ".join(f"{one.variant} {one.ms:.2f} ms on {one.device}" for one in able)
    said = "its speed was unproven" if bundle.manifest.speed == "unproven" else "the fastest variant is chosen here"
    log.warning("%s: %s; measured here: %s; %s is used", bundle.manifest.identity, said, figures, found.chosen)
    try:
        write_atomic(path, msgspec.json.encode(found))
    except (LinesideError, OSError) as error:
        log.warning("%s: the times are not kept, and are measured again at a restart: %s", bundle.path.name, error)
    return found


def best_of(manifest: Manifest, able: Sequence[TimedVariant]) -> TimedVariant:
    """Returns the variant to use.

    Args:
        able: Those that run here, fastest first.

    Returns:
        The fastest; with ``by_level`` the manifest's first one if the gain is less than `LEAST_GAIN`.
    """
    fastest = able[0]
    if manifest.speed == "unproven":
        return fastest
    first = next((one for one in able if one.variant == manifest.variants[0].name), fastest)
    return fastest if (first.ms or 0.0) >= LEAST_GAIN * (fastest.ms or 0.0) else first


def time_variant(bundle: Bundle, variant: Variant, config: Config) -> TimedVariant:
    """Times one variant on this device."""
    alone = only(bundle, variant)
    try:
        candidate = choose(alone.manifest, config).at(0)
        if candidate is None:
            return TimedVariant(variant=variant.name, why="nothing here runs it")
        executable = candidate.load(alone, config)
        try:
            took_ms = median_ms(executable, sample_inputs(alone.manifest))
        finally:
            executable.close()
    except LinesideError as error:
        return TimedVariant(variant=variant.name, why=str(error))
    return TimedVariant(variant=variant.name, device=str(candidate), ms=took_ms)


def _read(bundle: Bundle, path: Path) -> FastestVariant | None:
    """Returns the times that an earlier start measured for this bundle; ``None`` if there are none."""
    try:
        found = decode_json(path.read_bytes(), type=FastestVariant)
    except (OSError, msgspec.DecodeError):
        return None
    return found if found.digest == bundle.digest else None
