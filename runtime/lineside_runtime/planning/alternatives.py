"""The ways of serving a bundle that are worth measuring here, the configured one first."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Set

import msgspec

from lineside_runtime.bundle import Manifest, Variant
from lineside_runtime.config import Config
from lineside_runtime.errors import LinesideError
from lineside_runtime.serving.candidates import PlacementCandidate, choose, undeclared_candidates
from lineside_runtime.serving.plan_file import core_count
from lineside_runtime.serving.serving_plan import AS_CONFIGURED, ServingPlan

STAGED_DEVICES_MAX = 3
"""Devices whose assignments to stages are measured, the first ones: all would be as many as their permutations."""


def alternatives(
    manifest: Manifest,
    config: Config,
    share: float = 1.0,
    *,
    refused: Collection[str] = (),
    crashed: Collection[str] = (),
) -> list[ServingPlan]:
    """Returns the ways to measure: as configured, one device, replicas, stages.

    What the configuration sets (engines, threads, workers) is kept; what it leaves open is varied.

    Args:
        share: The model's share of the compute of everything that runs on this box, 0 to 1.
        refused: Devices that are not to be used, such as ``ort/gpu:0``: replicas are on the others, if there are two.
        crashed: Those of them that no way uses, not even as a fallback.

    Raises:
        LinesideError: Nothing here runs the bundle, as for `choose`.
    """
    declared = _devices(manifest, config, share)
    devices = [*declared, *_undeclared(manifest, config)]
    kinds = {one.device.kind for one in declared}
    found = [AS_CONFIGURED, *_on_one(devices, kinds, manifest, config, share, crashed)]
    names = tuple(dict.fromkeys(str(one) for one in devices))
    if len(names) > 1:
        usable = tuple(name for name in names if name not in refused)
        names_used = usable if len(usable) > 1 else names
        on_cpus = all(one.device.kind == "cpu" for one in devices if str(one) in names_used)
        threads = config.threads or (1 if on_cpus else None)
        found.append(ServingPlan(kind="replicas", devices=names_used, threads=threads, workers=config.submit_workers))
    found += _in_stages(manifest, config, tuple(dict.fromkeys(str(one) for one in declared)))
    return [msgspec.structs.replace(way, excluded=tuple(crashed)) for way in found]


def accelerators(manifest: Manifest, config: Config, share: float = 1.0) -> list[PlacementCandidate]:
    """Returns the GPUs and NPUs that `alternatives` names, with the variants that they would load.

    Raises:
        LinesideError: As for `alternatives`.
    """
    devices = [*_devices(manifest, config, share), *_undeclared(manifest, config)]
    return [one for one in devices if one.device.kind != "cpu"]


def _devices(manifest: Manifest, config: Config, share: float) -> list[PlacementCandidate]:
    """Returns each device with its first fitting variant; with each one where the maker leaves the choice to it."""
    if manifest.speed == "measured" or config.variant is not None:
        return list(choose(manifest, config, share=share).candidates)
    found: list[PlacementCandidate] = []
    first: LinesideError | None = None
    for variant in manifest.to_time:
        alone = msgspec.structs.replace(manifest, variants=(variant,))
        try:
            found += choose(alone, config, share=share).candidates
        except LinesideError as error:
            first = first or error
    if not found and first is not None:
        raise first
    return found


def _undeclared(manifest: Manifest, config: Config) -> list[PlacementCandidate]:
    """Returns the devices of kinds that the bundle is not for, with the variants that are measured on the others."""
    if manifest.speed == "measured" or config.variant is not None:
        return list(undeclared_candidates(manifest, config))
    alone = (msgspec.structs.replace(manifest, variants=(variant,)) for variant in manifest.to_time)
    return [one for each in alone for one in undeclared_candidates(each, config)]


def _on_one(
    devices: list[PlacementCandidate],
    kinds: Set[str],
    manifest: Manifest,
    config: Config,
    share: float,
    crashed: Collection[str],
) -> Iterator[ServingPlan]:
    """Yields each device alone, on a CPU with few and many threads, but the one that the configuration leads to."""
    unproven = manifest.speed != "measured" and config.variant is None
    leader = choose(manifest, config, share=share).without(crashed).at(0)
    for one in devices:
        configured = leader is not None and _leads_alone(leader, config, kinds) and one == leader
        for threads, workers in _concurrency(one, config):
            if configured and (threads, workers) == (config.threads, config.submit_workers):
                continue
            yield ServingPlan(
                kind="device",
                devices=(str(one),),
                variant=one.variant.name if unproven else "",
                threads=threads,
                workers=workers,
            )


def _leads_alone(leader: PlacementCandidate, config: Config, kinds: Set[str]) -> bool:
    """Whether the configuration gives all calls to its first device, as a whole."""
    shares = config.balance or (leader.device.kind == "gpu" and "cpu" in kinds and config.gpu_ratio < 1)
    return not shares and not (_is_cut(leader.variant) and len(kinds) > 1)


def _concurrency(one: PlacementCandidate, config: Config) -> list[tuple[int | None, int]]:
    """Returns threads of a call and calls at once: one call on all cores, and as many calls as fill them."""
    cores = len(config.cores) if config.cores is not None else core_count()
    if one.device.kind != "cpu" or config.submit_workers > 1:
        return [(config.threads, config.submit_workers)]
    if config.threads is not None:
        return [(config.threads, workers) for workers in dict.fromkeys((1, max(1, cores // config.threads)))]
    return [(None, 1), *((max(1, cores // calls), calls) for calls in dict.fromkeys((2, cores)) if calls <= cores > 1)]


def _is_cut(variant: Variant) -> bool:
    return bool(variant.stages)


def _in_stages(manifest: Manifest, config: Config, names: tuple[str, ...]) -> Iterator[ServingPlan]:
    """Yields each assignment of the stages to different devices."""
    cut = next((variant for variant in manifest.variants if _is_cut(variant)), None)
    if cut is None:
        return
    threads = config.threads or 1
    for devices in itertools.permutations(names[:STAGED_DEVICES_MAX], len(cut.stages)):
        yield ServingPlan(kind="stages", devices=devices, threads=threads, workers=config.submit_workers)
