"""Level 3 on the ResNet-18. Baselines: level 2's points, and a random search of the same budget in the same space.

Everything is measured as the search measures it: INT8, one thread, fine-tuned with the same schedule, judged on what is
kept aside of the train folds. The hypervolume is against one reference point for all three.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch

from benchmarks.pruning.classifier import EFFORT, crops_folder, trained
from benchmarks.pruning.common import HOME, SEED, said, say
from benchmarks.smoke import SMOKE, scaled
from lineside_converters.compress.cleanup import clean_graph
from lineside_converters.compress.distill import School, school_of
from lineside_converters.compress.prune.pruning import (
    apply_plan,
    measure_sensitivity,
    plan_pruning,
    timed_beside,
)
from lineside_converters.material import gather
from lineside_converters.proving import Terms
from lineside_converters.recipes import recipe_for
from lineside_converters.search.finding import Budget, accounts, find, judge, space_for, timed_together
from lineside_converters.search.searching import Bench, Finished
from lineside_converters.slimming import shrinker, tuition_of
from lineside_converters.source import open_source
from lineside_converters.targets import find_target
from lineside_converters.task import task_of
from lineside_converters.training.taught import teach
from lineside_converters.voice import Voice
from lineside_models.vision.facts import ModelFacts

LEVEL2_SPEEDUPS = (1.6, 2.6)
SHORT = dataclasses.replace(EFFORT, epochs=3, trials=24, shortlist=3)
"""Of every network alike: level 2's, the search's and the random search's."""


def _opened(folder: Path) -> tuple[Terms, School, list[torch.Tensor]]:
    teacher = trained()
    data = [crops_folder(teacher.labels)]
    source = open_source(Path(teacher.onnx), folder / "opened", given=ModelFacts(), trust=False)
    clean = folder / "clean.onnx"
    clean_graph(source.model, clean)
    material = gather(source.manifest, limit=scaled(48, smoke=2), data=data)
    terms = Terms(
        source=source.model,
        clean=clean,
        manifest=source.manifest,
        material=material,
        recipe=recipe_for(3),
        target=find_target("x86"),
        task=task_of(source.manifest),
        max_drop=0.01,
        seed=SEED,
    )
    frames = [torch.from_numpy(next(iter(feed.values()))) for feed in material.calibration]
    school = school_of(clean, source.manifest, data, frames, batch=SHORT.batch, seed=SEED)
    return terms, school, frames


def _bench(folder: Path) -> Bench:
    terms, school, _ = _opened(folder)
    found = measure_sensitivity(
        school.network,
        school.lessons,
        school.teaching,
        frame=school.frames[0],
        seed=SEED,
        work=folder,
        say=say,
        shrink=shrinker(terms),
    )
    return Bench(terms, school, found, space_for(terms, school, found), Voice(say, said()))


def _level2(bench: Bench, folder: Path, speedup: float) -> list[Finished]:
    school, place = bench.school, folder / f"level2-{speedup}"
    place.mkdir(parents=True, exist_ok=True)
    timed = timed_beside(school.network, school.frames, shrinker(bench.terms))
    plan = plan_pruning(school.network, bench.found, speedup=speedup, timed=timed, work=place, say=say)
    pruned = apply_plan(school.network, plan, school.lessons)
    teach(
        pruned.module,
        school.teacher,
        school.lessons,
        school.teaching,
        tuition=tuition_of(SHORT, SEED),
        out=place,
        on_progress=lambda _: None,
    )
    return judge(bench, pruned, place / "judged")


def run() -> dict[str, Any]:
    """Searches three ways, or takes what earlier calls have kept, and compares the areas."""
    key = hashlib.sha256(repr(SHORT).encode()).hexdigest()[:8]
    folder = HOME / f"searching-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    if SMOKE:
        terms, school, frames = _opened(folder)
        sizes = {"frames": len(frames), "batch_frames": len(school.frames), "labels": len(terms.manifest.labels)}
        return {**sizes, "left_out": "the search: sensitivities, plans and trainings of minutes each"}
    bench = _bench(folder)
    budget = Budget(trials=SHORT.trials, shortlist=SHORT.shortlist, tuition=tuition_of(SHORT, SEED))
    series: dict[str, list[Finished]] = {
        "level 2": [each for speedup in LEVEL2_SPEEDUPS for each in _level2(bench, folder, speedup)],
        "search": find(bench, budget, folder / "search"),
        "random": find(bench, budget, folder / "random", sampler="random"),
    }
    candidates, areas = accounts(timed_together(bench, series), None)
    values = {each.series: round(each.value, 4) for each in areas}
    return {
        "baseline": "level 2 at three speeds; random search of the same space, trials and shortlist",
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
        "hypervolume": values,
        "against_level2": round(values["search"] / values["level 2"], 4),
        "against_random": round(values["search"] / values["random"], 4),
        "bars": {"against_level2": 1.0, "against_random": 1.0},
    }
