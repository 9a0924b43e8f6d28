"""Level 3 from end to end: pruning, search, fine-tuning of the shortlist, choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import torch

from lineside_converters.context import Context
from lineside_converters.distillation.distill import DistillationSetup
from lineside_converters.distillation.losses import LogitDistillation
from lineside_converters.distillation.trainer import DistillationSettings
from lineside_converters.gates.loaded_models import execution_place, open_model
from lineside_converters.gates.parity import check_parity, reading_of
from lineside_converters.levels import FLOAT_CONVS
from lineside_converters.pruning.layer_cost import called
from lineside_converters.pruning.structured import Sensitivity
from lineside_converters.pruning.torch_graph import PrunableNetwork
from lineside_converters.reports.report_parts import Hypervolume, SearchPoint
from lineside_converters.search.input_size import shrunk
from lineside_converters.search.pareto import Point, front, hypervolume
from lineside_converters.search.space import SearchChoice, SearchSpace, stages_of
from lineside_converters.search.study import Sampler, TrialMethod, search
from lineside_converters.search.trials import (
    SearchContext,
    TunedNetwork,
    finish,
    measure,
    measure_together,
    points,
    quantised,
    score,
    shortlist,
    time_trials,
    try_out,
)
from lineside_converters.training.objective import as_tuple
from lineside_runtime import registry
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import EngineMissingError, ParityGateError
from lineside_runtime.files import write_atomic

SEARCH, LEVEL2, WHOLE = "search", "level 2", "whole network"

CUT = TrialMethod(try_out, time_trials)
"""Each trial is pruned, quantized and timed."""

SIZES = (1.0, 0.875, 0.75)
REFERENCE_SLOWDOWN = 1.05
"""The reference point's latency, as a share of the slowest point's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchBudget:
    """Budget of a search.

    Attributes:
        trials: Number of networks that are pruned, quantised and timed, but not trained.
        shortlist: Number of them that are fine-tuned.
        settings: Settings of the fine-tuning.
    """

    trials: int
    shortlist: int
    settings: DistillationSettings


def space_for(context: Context, setup: DistillationSetup, found: Sensitivity) -> SearchSpace:
    """Returns the search space of a model: choices that its task allows, and engines of this machine.

    Other input sizes are tried for models with one answer for the whole picture: a detector's boxes are in pixels.
    """
    resizable = isinstance(setup.distillation_loss, LogitDistillation) and _takes_any_size(setup)
    first = FLOAT_CONVS[context.manifest.task]
    return SearchSpace(
        stages=stages_of(found, called(setup.network.module, setup.network.example)),
        sizes=SIZES if resizable else (1.0,),
        methods=context.level.calibrations[:2],
        float_convs=tuple(dict.fromkeys((first, 1, 0))),
        engines=_engines(context),
    )


def _engines(context: Context) -> tuple[str, ...]:
    """Returns the engines of this machine that networks are timed on; where a device times, it chooses its own."""
    if context.limits.clock is not None:
        return (f"on {context.limits.clock.device}",)
    return tuple(name for name in context.target.engines if _reads_onnx_here(name)) or ("ort",)


def _reads_onnx_here(engine: str) -> bool:
    if not registry.may_read(engine, "onnx", "cpu"):
        return False
    try:
        return any(device.kind == "cpu" for device in registry.backend(engine).probe())
    except EngineMissingError:
        return False


@torch.no_grad()
def _takes_any_size(setup: DistillationSetup) -> bool:
    frame = setup.frames[0]
    if frame.ndim != 4:
        return False
    try:
        small = as_tuple(setup.teacher(shrunk(frame, SIZES[-1])))
    except RuntimeError:
        return False
    return [each.shape for each in small] == [each.shape for each in as_tuple(setup.teacher(frame))]


def find(
    context: SearchContext, budget: SearchBudget, folder: Path, *, sampler: Sampler = "nsga2"
) -> list[TunedNetwork]:
    """Searches, and fine-tunes the shortlist."""
    limits = context.optimization.limits
    method = dataclasses.replace(CUT, together=limits.clock is not None)
    tried = search(context, folder, sampler=sampler, trials=budget.trials, seed=limits.seed, method=method)
    chosen = shortlist(tried, budget.shortlist)
    context.progress.report(f"search ({sampler}): {len(tried)} trials, {len(chosen)} are fine-tuned")
    return [
        finish(context, each.choice, folder / f"{sampler}-{number}", settings=budget.settings)
        for number, each in enumerate(chosen)
    ]


def judge(context: SearchContext, network: PrunableNetwork, folder: Path) -> list[TunedNetwork]:
    """Measures a network as the search's are measured: on every engine, with the first options of the space.

    Args:
        network: The whole network, or that of level 2.
        folder: To keep its files in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for engine in context.space.engines:
        choice = SearchChoice((), 1.0, context.space.methods[0], context.space.float_convs[0], engine)
        path = quantised(context, network, choice, folder)
        found.append(
            TunedNetwork(
                choice=choice,
                latency_ms=measure(context, path, choice),
                metric=score(context, path, choice),
                model=str(folder / "clean.onnx"),
            )
        )
    return found


def timed_together(
    context: SearchContext, series: Mapping[str, Sequence[TunedNetwork]]
) -> dict[str, list[TunedNetwork]]:
    """Returns the series with latencies that were measured in turn."""
    timed = iter(measure_together(context, [each for group in series.values() for each in group]))
    return {name: [next(timed) for _ in group] for name, group in series.items()}


def kept_series(path: Path, measure: Callable[[], dict[str, list[TunedNetwork]]]) -> dict[str, list[TunedNetwork]]:
    """Returns all series, or those of an earlier call: times measured again would choose another network."""
    if not path.exists():
        write_atomic(path, msgspec.json.encode(measure()))
    found: dict[str, list[TunedNetwork]] = decode_json(path.read_bytes(), type=dict[str, list[TunedNetwork]])
    return found


def reference_of(found: Sequence[Point]) -> Point:
    """Returns the reference point of all series: a little slower than the slowest, and a metric of 0 or the least."""
    return REFERENCE_SLOWDOWN * max(each[0] for each in found), min(0.0, *(each[1] for each in found))


def accounts(
    series: Mapping[str, Sequence[TunedNetwork]], shipped: TunedNetwork | None
) -> tuple[tuple[SearchPoint, ...], tuple[Hypervolume, ...]]:
    """Returns the points and hypervolumes of all series for the report."""
    flat = [(name, each) for name, group in series.items() for each in group]
    best = set(front([(each.latency_ms, each.metric) for _, each in flat]))
    reference = reference_of([(each.latency_ms, each.metric) for _, each in flat])
    candidates = tuple(
        SearchPoint(
            latency_ms=each.latency_ms,
            metric=each.metric,
            series=name,
            what=str(each.choice) if each.choice.kept else f"{name}, {each.choice.engine}",
            front=number in best,
            shipped=each is shipped,
        )
        for number, (name, each) in enumerate(flat)
    )
    areas = tuple(
        Hypervolume(series=name, value=hypervolume(points(group), reference)) for name, group in series.items() if group
    )
    return candidates, areas


def choose(
    found: Sequence[TunedNetwork], *, source_metric: float, max_drop: float, passes: Callable[[TunedNetwork], bool]
) -> TunedNetwork:
    """Returns the network for the bundle: the fastest whose metric is good enough, else the best.

    Networks for another input size are left out: the bundle's pre-processing is the source model's, and so are the
    inputs of the gates.

    Args:
        found: All tuned networks, and the whole network.
        max_drop: How much lower it may be.
        passes: Whether the parity gate would let a network through, as far as its float form tells. The metric doesn't:
            it may not see what changed, where nothing is annotated.
    """
    own = [each for each in found if each.choice.size == 1]
    good = sorted((each for each in own if each.metric >= source_metric - max_drop), key=lambda each: each.latency_ms)
    rest = sorted((each for each in own if each not in good), key=lambda each: -each.metric)
    return next((each for each in (*good, *rest) if passes(each)), (*good, *rest)[0])


def answers_alike(context: Context, one: TunedNetwork) -> bool:
    """Returns whether a network's float form passes the parity gate on the calibration inputs."""
    cpu = execution_place("ort", "cpu")
    reading = reading_of(context.manifest.postprocess)
    judged = context.judges_accuracy
    threads = context.target.threads
    with (
        open_model(context.source.model, cpu, context.manifest, precision="fp32", threads=threads) as source,
        open_model(Path(one.model), cpu, context.manifest, precision="fp32", threads=threads) as run,
    ):
        try:
            check_parity(
                source,
                run,
                context.inputs.calibration,
                min_correlation=context.level.least(judged=judged, read=reading is not None),
                reading=reading,
            )
        except ParityGateError:
            return False
    return True
