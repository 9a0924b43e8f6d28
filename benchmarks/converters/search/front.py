"""Level 3 with annotated data beside level 3 without, and beside random search: hypervolume of latency and error.

The classifier of `search.slimmable`, an EfficientNet-Lite0 for x-sdd, trained on three quarters of the parts of its
train fold. All searches learn from these quarters, choose on a share of them that is held out, and are judged on the
last quarter. Each series has about the same processor time; one pair has more of it, and one search trains its networks
twice as long as level 3 does by default, to compare them with the source. Baselines: the search of networks that are
pruned without training and of which a shortlist is trained alone (level 3 without annotated data), and the same with
random choices. Here these shortlists learn from the annotations too, at the same rate and with the same teacher, so
that only the searches differ.
Level 3 with data and random search run once more from the widest network of the training of several widths.
Latency is that of the INT8 form in ONNX Runtime, one thread, all networks timed in turn.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.converters.pruning.common import print_progress, progress_printer
from benchmarks.converters.search.slimmable import FOLDS, HOME, LOOK, WIDTHS, fold_folder, labels_of, trained
from benchmarks.smoke import SMOKE, scaled
from lineside_converters.context import Context
from lineside_converters.data.calibration_data import gather_inputs
from lineside_converters.distillation.distill import distillation_setup
from lineside_converters.distillation.trainer import DistillationSettings
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import level_options
from lineside_converters.loading.source import open_source
from lineside_converters.options import Effort, LimitOptions
from lineside_converters.progress import ProgressReporter
from lineside_converters.pruning.pipeline import int8_maker
from lineside_converters.pruning.structured import measure_sensitivity
from lineside_converters.search.pareto import front, hypervolume
from lineside_converters.search.pipeline import SearchBudget, find, judge, space_for
from lineside_converters.search.progressive import find_progressive, progressive_context
from lineside_converters.search.study import Sampler
from lineside_converters.search.trials import OnnxModule, SearchContext, TunedNetwork, measure_together
from lineside_converters.targets import find_target
from lineside_converters.tasks import task_of
from lineside_converters.training.classification.data import load_classes, read_all
from lineside_converters.training.classification.objective import ClassificationObjective, classify
from lineside_converters.work_folder import WorkFolder
from lineside_models.vision.model_facts import ModelFacts

SEEDS = scaled((0, 1, 2, 3, 4), smoke=(0,))
CORES = min(2, len(os.sched_getaffinity(0)))
BATCH, HELD_SHARE, THREADS = 32, 0.25, 1
TRIALS, SHORTLIST, EPOCHS = scaled((8, 3, 2), smoke=(2, 1, 1))
FORM_TRIALS, FORMS, FORM_EPOCHS = scaled((10, 3, 3), smoke=(2, 1, 1))
"""Chosen on another quarter of the train fold, with five seeds, for about the processor time of the baselines."""
LONGER_EPOCHS, LONGER_FORMS = 3, 4
"""Epochs of random search, and forms of the search with data, of the pair with more processor time."""
SEVERAL = scaled(WIDTHS, smoke=())
"""In a smoke run the ordinary training once more: `search.slimmable` trains several widths there."""
BEFORE, RANDOM, WITH_DATA = "without data", "random", "with data"
FROM_WIDTHS, RANDOM_WIDTHS = "with data, from several widths", "random, from several widths"
LONGER, RANDOM_LONGER = "with data, more compute", "random, more compute"
COMPARED = {
    (WITH_DATA, BEFORE): 1.2,
    (WITH_DATA, RANDOM): 1.3,
    **scaled({(LONGER, RANDOM_LONGER): 1.3}, smoke={}),
    (FROM_WIDTHS, BEFORE): 1.2,
    (FROM_WIDTHS, RANDOM_WIDTHS): 1.3,
}
"""Least ratio of the hypervolumes of a search with data and of a baseline."""
COMPUTE_MAX = 1.1
"""Largest ratio of their processor times at which it counts."""
EACH_SEED = tuple(dict.fromkeys(name for pair in COMPARED for name in pair))
FINISHED = "with data, trained for longer"
FINISHED_FORMS, FINISHED_EPOCHS = scaled((3, 2 * Effort().epochs), smoke=(1, 1))
"""Networks of the one search that trains twice as long as level 3 does by default, and epochs of the slowest."""
SHIPPED = "the classifier itself"


def settings(seed: int, epochs: int) -> DistillationSettings:
    """Returns the settings of a training."""
    return DistillationSettings(
        learning_rate=1e-3, true_weight=1.0, epochs=epochs, evaluate_every=epochs, threads=THREADS, seed=seed
    )


def opened(seed: int, widths: tuple[float, ...] = ()) -> SearchContext:
    """Returns the context of searches; sensitivity and times of the layers are measured once.

    Args:
        widths: Of the training whose widest network they start from; empty for the ordinary one.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "front.lock").open("a") as lock:  # the processes of two seeds write the same files
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _opened(seed, widths)


def _opened(seed: int, widths: tuple[float, ...]) -> SearchContext:
    run, folder = trained(FOLDS[0], widths)["folder"], HOME / "front" / ("widths" if widths else "")
    folder.mkdir(parents=True, exist_ok=True)
    data = [fold_folder(FOLDS[0])]
    source = open_source(run / "float.onnx", folder / "source", given=ModelFacts(), trust=False)
    clean = folder / "clean.onnx"
    clean_graph(source.model, clean)
    inputs = gather_inputs(source.manifest, limit=24, data=data)
    context = Context(
        source=source,
        manifest=source.manifest,
        inputs=inputs,
        level=level_options(3),
        target=dataclasses.replace(find_target("x86"), engines=("ort",)),
        task=task_of(source.manifest),
        work=WorkFolder(folder, print_progress),
        progress=ProgressReporter(print_progress, progress_printer()),
        limits=LimitOptions(seed=seed),
    )
    frames = [torch.from_numpy(next(iter(feed.values()))) for feed in inputs.calibration]
    setup = distillation_setup(clean, source.manifest, data, frames, batch=BATCH, seed=seed)
    classes = load_classes(data, look=LOOK, held_share=HELD_SHARE, labels=source.manifest.labels)
    setup = dataclasses.replace(setup, objective=ClassificationObjective(classes, batch=BATCH, seed=seed))
    found = measure_sensitivity(
        setup.network,
        setup.objective,
        setup.distillation_loss,
        frame=setup.frames[0],
        seed=0,
        work=folder,
        report=print_progress,
        make_int8=int8_maker(context),
    )
    return SearchContext(context, setup, found, space_for(context, setup, found), context.progress)


def kept(name: str, search: Callable[[str], list[TunedNetwork]]) -> tuple[list[TunedNetwork], float]:
    """Returns the networks of a search and its seconds of processor time, or reads those of an earlier call.

    Args:
        search: Of the name of a folder that is its own.
    """
    place = HOME / "front" / f"{name}.json"
    if place.exists():
        content = json.loads(place.read_text())
        return msgspec.convert(content["found"], list[TunedNetwork]), content["cpu_s"]
    print_progress(f"search {name}")
    began_s = time.process_time()
    found = search(name)
    cpu_s = time.process_time() - began_s
    place.write_text(json.dumps({"found": msgspec.to_builtins(found), "cpu_s": cpu_s}))
    print_progress(f"searched in {cpu_s:.0f} s of processor time")
    return found, cpu_s


def _progressive(bench: SearchContext) -> SearchContext:
    return progressive_context(bench, make_int8=int8_maker(bench.optimization))


def searched(seed: int) -> dict[str, tuple[list[TunedNetwork], float]]:
    """Returns a seed's networks by series."""
    ordinary, widths = opened(seed), opened(seed, SEVERAL)

    def folder(bench: SearchContext, name: str) -> Path:
        return bench.optimization.work.folder / f"seed-{seed}" / name

    def pruned(name: str, bench: SearchContext, sampler: Sampler, epochs: int = EPOCHS) -> list[TunedNetwork]:
        budget = SearchBudget(trials=TRIALS, shortlist=SHORTLIST, settings=settings(seed, epochs))
        return find(bench, budget, folder(bench, name), sampler=sampler)

    def with_data(name: str, bench: SearchContext, forms: int = FORMS, epochs: int = FORM_EPOCHS) -> list[TunedNetwork]:
        """Searches as level 3 does with annotated data."""
        return find_progressive(
            _progressive(bench),
            trials=FORM_TRIALS,
            finished=forms,
            settings=settings(seed, epochs),
            folder=folder(bench, name),
        )

    searches: dict[str, Callable[[str], list[TunedNetwork]]] = {
        BEFORE: lambda name: pruned(name, ordinary, "nsga2"),
        RANDOM: lambda name: pruned(name, ordinary, "random"),
        WITH_DATA: lambda name: with_data(name, ordinary),
        FROM_WIDTHS: lambda name: with_data(name, widths),
        RANDOM_WIDTHS: lambda name: pruned(name, widths, "random"),
        LONGER: lambda name: with_data(name, ordinary, LONGER_FORMS),
        RANDOM_LONGER: lambda name: pruned(name, ordinary, "random", LONGER_EPOCHS),
        FINISHED: lambda name: with_data(name, ordinary, FINISHED_FORMS, FINISHED_EPOCHS),
    }
    names = (*EACH_SEED, *((FINISHED,) if seed == SEEDS[0] else ()))
    return {name: kept(f"{name.replace(', ', '-').replace(' ', '-')}-{seed}", searches[name]) for name in names}


def _searched_all() -> list[dict[str, tuple[list[TunedNetwork], float]]]:
    """Searches with every seed, one a core; what all of them measure first is there already."""
    if SMOKE:
        return [searched(seed) for seed in SEEDS]
    for widths in ((), SEVERAL):
        _progressive(opened(SEEDS[0], widths))
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(searched, SEEDS))


def errors(bench: SearchContext, networks: Sequence[TunedNetwork]) -> list[float]:
    """Returns the share of wrong answers of each INT8 form on the judged quarter."""
    crops = read_all([fold_folder(FOLDS[0])], labels_of(trained(FOLDS[0], ())["folder"]), look=LOOK, fold="val")
    found = []
    for each in networks:
        module = OnnxModule(Path(each.model).with_name("int8.onnx"), bench.setup.network, each.choice.size)
        found.append(float((classify(module, crops, LOOK) != crops.labels).mean()))
    return found


def areas(points: Mapping[str, Sequence[tuple[float, float]]], shipped: tuple[float, float]) -> dict[str, float]:
    """Returns the hypervolume of each series, by the reference point of the slowest and the worst of all networks."""
    everything = [*(each for group in points.values() for each in group), shipped]
    reference = (1.05 * max(ms for ms, _ in everything), -max(error for _, error in everything) - 1e-9)
    return {name: hypervolume([(ms, -error) for ms, error in group], reference) for name, group in points.items()}


def _rows(
    networks: Sequence[tuple[int, str, TunedNetwork]],
    points: Sequence[tuple[float, float]],
    shipped: tuple[float, float],
) -> list[dict[str, Any]]:
    """Returns a row for each seed, series and network, with its milliseconds and error."""
    best = set(front([(ms, -error) for ms, error in points]))
    return [
        {
            "series": name,
            "seed": seed,
            "ms": round(ms, 4),
            "error": round(error, 4),
            "what": str(network.choice),
            "dominates_shipped": ms < shipped[0] and error <= shipped[1],
            "front": number in best,
        }
        for number, ((seed, name, network), (ms, error)) in enumerate(zip(networks, points, strict=True))
    ]


def _compared(mean: Mapping[str, float], cpu_s: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Returns the ratios of hypervolume and of processor time of each search with data and its baseline."""
    return [
        {
            "search": ours,
            "baseline": other,
            "ratio": round(mean[ours] / mean[other], 4),
            "bar": bar,
            "compute": round(sum(cpu_s[ours]) / sum(cpu_s[other]), 4),
        }
        for (ours, other), bar in COMPARED.items()
    ]


def run() -> dict[str, Any]:
    """Searches with every seed, or takes what earlier calls have kept, and compares the hypervolumes."""
    bench = opened(SEEDS[0])
    by_seed = dict(zip(SEEDS, _searched_all(), strict=True))
    shipped = judge(bench, bench.setup.network, HOME / "front" / "whole")[0]
    flat = [(seed, name, each) for seed, found in by_seed.items() for name in found for each in found[name][0]]
    timed = measure_together(bench, [shipped, *(each for _, _, each in flat)])
    wrong = errors(bench, timed)
    at_shipped = (timed[0].latency_ms, wrong[0])
    rows = _rows(flat, list(zip((each.latency_ms for each in timed[1:]), wrong[1:], strict=True)), at_shipped)
    points: dict[str, list[tuple[float, float]]] = {}
    for (seed, name, _), network, error in zip(flat, timed[1:], wrong[1:], strict=True):
        points.setdefault(f"{name}, seed {seed}", []).append((network.latency_ms, error))
    found = areas(points, at_shipped)
    each = {name: [found[f"{name}, seed {seed}"] for seed in SEEDS] for name in EACH_SEED}
    cpu_s = {
        name: [round(by_seed[seed][name][1], 1) for seed in SEEDS if name in by_seed[seed]]
        for name in (*each, FINISHED)
    }
    mean = {name: statistics.mean(values) for name, values in each.items()}
    return {
        "baseline": "level 3 without annotated data, and the same with random choices",
        "budget": {
            "trials": TRIALS,
            "shortlist": SHORTLIST,
            "epochs": EPOCHS,
            "form_trials": FORM_TRIALS,
            "forms": FORMS,
            "form_epochs": FORM_EPOCHS,
            "longer_epochs": LONGER_EPOCHS,
            "longer_forms": LONGER_FORMS,
            "finished_epochs": FINISHED_EPOCHS,
            "side_px": LOOK.side_px,
        },
        "seeds": list(SEEDS),
        "cpu_s": cpu_s,
        "shipped": {"ms": round(at_shipped[0], 4), "error": round(at_shipped[1], 4), "what": SHIPPED},
        "points": rows,
        "hypervolume": {
            name: {
                "mean": round(mean[name], 4),
                "sd": round(statistics.stdev(values), 4) if len(values) > 1 else None,
                "per_seed": [round(value, 4) for value in values],
            }
            for name, values in each.items()
        },
        "compared": _compared(mean, cpu_s),
        "widths_against_ordinary": round(mean[FROM_WIDTHS] / mean[WITH_DATA], 4),
        "dominating": sum(
            row["dominates_shipped"] for row in rows if row["series"] in (WITH_DATA, FROM_WIDTHS, FINISHED)
        ),
        "compute_max": COMPUTE_MAX,
    }
