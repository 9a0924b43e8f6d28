"""Assign the stages of a split model to devices: `Config.stage_engines`, or the same rules as for whole models."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Sequence

import msgspec

from lineside_runtime.bundle import Bundle, Manifest, Stage, Variant
from lineside_runtime.config import QUEUE_MAX, Config
from lineside_runtime.errors import ConfigError, DeviceError, NoDeviceError
from lineside_runtime.logs import log
from lineside_runtime.serving.candidates import CandidateChoice, choose
from lineside_runtime.serving.fastest_candidate import order_by_speed
from lineside_runtime.system.affinity import allowed


@dataclasses.dataclass(frozen=True, slots=True)
class PlacedStage:
    """One stage and who may run it.

    Attributes:
        bundle: The bundle as if this stage were its model.
        choice: Who may run it, in the order in which they are tried.
        config: The user's, as it is for one stage.
    """

    stage: Stage
    bundle: Bundle
    choice: CandidateChoice
    config: Config
    variant: Variant


def plan_stages(
    bundle: Bundle,
    whole: CandidateChoice,
    config: Config,
    *,
    level: int | None = None,
    share: float = 1.0,
    excluded: Collection[str] = (),
    on_absent: Callable[[str, DeviceError], None] | None = None,
) -> tuple[PlacedStage, ...] | None:
    """Returns where each stage goes, or ``None`` where the model is better run whole.

    That is so if it isn't cut, or if all stages would be on one device: then cutting only costs.

    Args:
        whole: Who may run it whole.
        level: Wanted optimisation level; ``None`` for any.
        share: The whole model's share of the compute of everything that runs on this box, 0 to 1.
        excluded: Devices that run no stage.
        on_absent: As for `choose`.

    Raises:
        ConfigError: ``stage_engines`` or ``stage_cores`` don't fit the bundle or this machine.
        NoDeviceError: Nothing here runs a stage on what ``stage_engines`` names.
    """
    told = config.stage_engines is not None or config.stage_cores is not None
    variant = _variant(bundle.manifest, whole, level, told=told)
    if variant is None:
        if told:
            log.warning("%s is not cut into stages: it runs whole", bundle.manifest.identity)
        return None
    _check_counts(config, variant)
    parts = [_stage_bundle(bundle, variant, stage) for stage in variant.stages]
    configs = [_stage_config(config, number) for number in range(len(parts))]
    choices = [
        choose(part.manifest, own, share=share * stage.share, on_absent=on_absent).without(excluded)
        for part, stage, own in zip(parts, variant.stages, configs, strict=True)
    ]
    if config.stage_engines is not None:
        choices = [
            _named_first(choice, wanted, stage)
            for choice, wanted, stage in zip(choices, config.stage_engines, variant.stages, strict=True)
        ]
    elif config.fallback_strategy == "fastest":
        choices = [order_by_speed(*one) for one in zip(parts, choices, configs, strict=True)]
    else:
        choices = _spread_over_gpu(choices, variant.stages, config.gpu_ratio)
    if config.stage_cores is None and len({str(choice.at(0)) for choice in choices}) == 1:
        return None
    return tuple(PlacedStage(*one, variant) for one in zip(variant.stages, parts, choices, configs, strict=True))


def _variant(manifest: Manifest, whole: CandidateChoice, level: int | None, *, told: bool) -> Variant | None:
    """Returns the cut variant: that which would run whole, or any if the user has said where stages go."""
    leader = whole.at(0)
    if leader is not None and leader.variant.stages:
        return leader.variant
    cut = (variant for variant in manifest.variants if variant.stages and level in (None, variant.level))
    return next(cut, None) if told else None


def _check_counts(config: Config, variant: Variant) -> None:
    for key, value in (("stage_engines", config.stage_engines), ("stage_cores", config.stage_cores)):
        if value is not None and len(value) != len(variant.stages):
            names = ", ".join(stage.name for stage in variant.stages)
            raise ConfigError(key, expected=f"one for each of the stages {names}", actual=value)
    for cores in config.stage_cores or ():
        if not allowed().issuperset(cores):
            raise ConfigError("stage_cores", expected=f"some of {sorted(allowed())}", actual=list(cores))


def _stage_config(config: Config, number: int) -> Config:
    """Returns the user's configuration for one stage: its calls are not spread over devices once more."""
    return msgspec.structs.replace(
        config,
        gpu_ratio=1.0,
        balance=False,
        cores=config.cores if config.stage_cores is None else config.stage_cores[number],
        replica_cores=None,
        stage_engines=None,
        stage_cores=None,
        submit_queue=config.submit_queue if number == 0 else QUEUE_MAX,  # what was taken is not refused half-way
    )


def _stage_bundle(bundle: Bundle, variant: Variant, stage: Stage) -> Bundle:
    own = msgspec.structs.replace(variant, name=f"{variant.name}:{stage.name}", file=stage.file, stages=(stage,))
    manifest = msgspec.structs.replace(
        bundle.manifest, inputs=stage.inputs, outputs=stage.outputs, variants=(own,), golden=None
    )
    return bundle.part(manifest, f"{bundle.digest}:{stage.name}")


def _named_first(choice: CandidateChoice, wanted: str, stage: Stage) -> CandidateChoice:
    candidates = choice.candidates
    named = [one for one in candidates if wanted in (one.backend.name, str(one))]
    if not named:
        raise NoDeviceError(
            f"stage {stage.name!r} cannot run on {wanted}", expected=", ".join(map(str, candidates)), actual=wanted
        )
    return choice.reordered([*named, *(one for one in candidates if one not in named)])


def _spread_over_gpu(
    choices: list[CandidateChoice], stages: Sequence[Stage], gpu_ratio: float
) -> list[CandidateChoice]:
    """Leaves those stages on the GPU whose shares come nearest to ``gpu_ratio``; the others begin on the CPU."""
    movable = [i for i, choice in enumerate(choices) if _kind(choice) == "gpu" and _has_cpu(choice)]
    if not movable:
        return choices
    subsets = (kept for size in range(len(movable) + 1) for kept in itertools.combinations(movable, size))
    kept = min(subsets, key=lambda some: abs(sum(stages[i].share for i in some) - gpu_ratio))
    return [_cpu_first(choice) if i in movable and i not in kept else choice for i, choice in enumerate(choices)]


def _kind(choice: CandidateChoice) -> str:
    leader = choice.at(0)
    return "" if leader is None else leader.device.kind


def _has_cpu(choice: CandidateChoice) -> bool:
    return any(candidate.device.kind == "cpu" for candidate in choice.candidates)


def _cpu_first(choice: CandidateChoice) -> CandidateChoice:
    return choice.reordered(sorted(choice.candidates, key=lambda candidate: candidate.device.kind != "cpu"))
