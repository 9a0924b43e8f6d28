"""Level 3 on the ResNet-18. Baselines: level 2's points, and a random search of the same budget in the same space.

Everything is measured as the search measures it: INT8, one thread, fine-tuned with the same schedule, judged on what is
kept aside of the train folds. The hypervolume is against one reference point for all series. Search and random search
run once for each seed; what a seed has found is kept, so that one that was ended goes on, and all is timed in turn at
the end. One seed alone, without a result: ``python -m benchmarks.converters.pruning.searching --seed 1``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.converters.pruning.classifier import EFFORT, crops_folder, trained
from benchmarks.converters.pruning.common import HOME, SEED, said, say
from benchmarks.smoke import scaled
from lineside_converters.context import Context
from lineside_converters.data.calibration_data import gather_inputs
from lineside_converters.distillation.distill import distillation_setup
from lineside_converters.distillation.trainer import train_student
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import level_options
from lineside_converters.loading.source import open_source
from lineside_converters.options import LimitOptions
from lineside_converters.progress import ProgressReporter
from lineside_converters.pruning.pipeline import distillation_settings, int8_maker
from lineside_converters.pruning.structured import (
    apply_plan,
    measure_sensitivity,
    plan_pruning,
    timed_beside,
)
from lineside_converters.search.pipeline import SearchBudget, accounts, find, judge, space_for, timed_together
from lineside_converters.search.study import Sampler
from lineside_converters.search.trials import SearchContext, TunedNetwork
from lineside_converters.targets import find_target
from lineside_converters.tasks import task_of
from lineside_converters.work_folder import WorkFolder
from lineside_models.vision.model_facts import ModelFacts

SEEDS = scaled((0, 1, 2), smoke=(0,))
SAMPLERS: Mapping[str, Sampler] = {"search": "nsga2", "random": "random"}
LEVEL2_SPEEDUPS = scaled((1.6, 2.6), smoke=(1.1,))
SHORT = dataclasses.replace(EFFORT, epochs=scaled(3, smoke=1), trials=scaled(24, smoke=2), shortlist=scaled(3, smoke=1))
"""Of every network alike: level 2's, the search's and the random search's."""


def _bench(folder: Path) -> SearchContext:
    teacher = trained()
    data = [crops_folder(teacher.labels)]
    source = open_source(Path(teacher.onnx), folder / "decoded", given=ModelFacts(), trust=False)
    clean = folder / "clean.onnx"
    clean_graph(source.model, clean)
    inputs = gather_inputs(source.manifest, limit=48, data=data)
    context = Context(
        source=source,
        manifest=source.manifest,
        inputs=inputs,
        level=level_options(3),
        target=find_target("x86"),
        task=task_of(source.manifest),
        work=WorkFolder(folder, say),
        progress=ProgressReporter(say, said()),
        limits=LimitOptions(max_drop=0.01, seed=SEED),
    )
    frames = [torch.from_numpy(next(iter(feed.values()))) for feed in inputs.calibration]
    setup = distillation_setup(clean, source.manifest, data, frames, batch=SHORT.batch, seed=SEED)
    found = measure_sensitivity(
        setup.network,
        setup.objective,
        setup.distillation_loss,
        frame=setup.frames[0],
        seed=SEED,
        work=folder,
        report=say,
        make_int8=int8_maker(context),
    )
    return SearchContext(context, setup, found, space_for(context, setup, found), context.progress)


def _seeded(context: Context, seed: int) -> Context:
    return dataclasses.replace(context, limits=dataclasses.replace(context.limits, seed=seed))


def _level2(bench: SearchContext, folder: Path, speedup: float) -> list[TunedNetwork]:
    setup, place = bench.setup, folder / f"level2-{speedup}"
    place.mkdir(parents=True, exist_ok=True)
    timed = timed_beside(setup.network, setup.frames, int8_maker(bench.optimization))
    plan = plan_pruning(setup.network, bench.found, speedup=speedup, timed=timed, work=place, report=say)
    pruned = apply_plan(setup.network, plan, setup.objective)
    train_student(
        pruned.module,
        setup.teacher,
        setup.objective,
        setup.distillation_loss,
        settings=distillation_settings(SHORT, SEED),
        out=place,
        on_progress=lambda _: None,
    )
    return judge(bench, pruned, place / "judged")


def run() -> dict[str, Any]:
    """Searches with every seed, or takes what earlier calls have kept, and compares the areas."""
    folder, bench = _opened()
    series = {"level 2": [each for speedup in LEVEL2_SPEEDUPS for each in _level2(bench, folder, speedup)]}
    for seed in SEEDS:
        series |= find_both(bench, folder, seed)
    candidates, areas = accounts(timed_together(bench, series), None)
    return {
        "baseline": f"level 2 at {len(LEVEL2_SPEEDUPS)} speeds; random search of the same space, trials and shortlist",
        "budget": {"trials": SHORT.trials, "shortlist": SHORT.shortlist, "epochs_each": SHORT.epochs},
        "points": [
            {
                "series": c.series,
                "ms": round(c.latency_ms, 3),
                "top1": round(c.metric, 4),
                "what": c.what,
                "front": c.front,
            }
            for c in candidates
        ],
        **compared({each.series: each.value for each in areas}, SEEDS),
        "bars": {"against_level2": 1.0, "against_random": 1.0},
    }


def find_both(bench: SearchContext, folder: Path, seed: int) -> dict[str, list[TunedNetwork]]:
    """Returns what the search and the random search find with a seed, or have found before."""
    seeded = dataclasses.replace(bench, optimization=_seeded(bench.optimization, seed))
    budget = SearchBudget(trials=SHORT.trials, shortlist=SHORT.shortlist, settings=distillation_settings(SHORT, seed))
    return {
        name_of(name, seed): find(seeded, budget, folder / f"{name}-{seed}", sampler=sampler)
        for name, sampler in SAMPLERS.items()
    }


def name_of(name: str, seed: int) -> str:
    """Returns the name of a series."""
    return f"{name}, seed {seed}"


def compared(areas: Mapping[str, float], seeds: Sequence[int]) -> dict[str, Any]:
    """Returns the hypervolumes with mean and standard deviation over the seeds, and how they compare.

    Args:
        areas: By series.
        seeds: Of the two searches.
    """
    each = {name: [areas[name_of(name, seed)] for seed in seeds] for name in SAMPLERS}
    mean = {name: statistics.mean(values) for name, values in each.items()}
    return {
        "seeds": list(seeds),
        "hypervolume": {
            "level 2": round(areas["level 2"], 4),
            **{
                name: {
                    "mean": round(mean[name], 4),
                    "sd": round(statistics.stdev(values), 4) if len(values) > 1 else None,
                    "per_seed": [round(value, 4) for value in values],
                }
                for name, values in each.items()
            },
        },
        "against_level2": round(mean["search"] / areas["level 2"], 4),
        "against_random": round(mean["search"] / mean["random"], 4),
        "against_random_per_seed": [round(a / b, 4) for a, b in zip(each["search"], each["random"], strict=True)],
    }


def _opened() -> tuple[Path, SearchContext]:
    key = hashlib.sha256(repr(SHORT).encode()).hexdigest()[:8]
    folder = HOME / f"searching-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder, _bench(folder)
