"""Levels 2 and 3: remove channels, then fine-tune with the whole network as teacher.

Level 2 removes them where the sensitivity curve says that it hurts least. Level 3 searches around that and ships the
best.

- Widths are chosen by the time of the INT8 form in ONNX Runtime, which is what ships.
- Only the train fold of the data is learned from, without its held-out part; the gates judge on the caller's fold.
- Without data, the whole network's answers to the calibration frames are the only target.
- Everything that takes long is kept in the work folder by the hash of what goes into it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx

from lineside_converters.candidate import PruningResult
from lineside_converters.context import Context
from lineside_converters.data.annotation_hash import hash_data
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import FLOAT_CONVS
from lineside_converters.options import Effort
from lineside_converters.progress import ProgressReporter
from lineside_converters.quantization.static import first_convs, hash_feeds, quantize
from lineside_converters.reports.report_parts import SensitivityCurve
from lineside_converters.work_folder import file_hash
from lineside_models.datasets import ALL, load_dataset
from lineside_models.datasets.base import evenly_spread
from lineside_models.datasets.folds import has_fold
from lineside_runtime.errors import MissingExtraError, PruningError

if TYPE_CHECKING:
    from torch import Tensor

    from lineside_converters.distillation.distill import DistillationSetup
    from lineside_converters.distillation.trainer import DistillationSettings
    from lineside_converters.pruning.structured import MakeInt8, PrunePlan, Sensitivity
    from lineside_converters.pruning.torch_graph import PrunableNetwork
    from lineside_converters.search.pipeline import SearchBudget
    from lineside_converters.search.trials import SearchContext, TunedNetwork
    from lineside_converters.training.progress import OnProgress, TrainingProgress

log = logging.getLogger("lineside.convert")

COSTING_FEEDS = 12
"""Inputs that networks are calibrated on only to be timed: their ranges just have to be possible."""

FITTED = "score calibration and thresholds were fitted to the pruned network, on what was kept aside of the train fold"

MEASURED_BY = ("batch", "threads")
"""Fields of `Effort` that sensitivity depends on."""

TRAIN_FOLD, VAL_FOLD = "train", "val"

TRAINED_ON = "accuracy was judged on frames that the pruned model was fine-tuned on; give --judge-fold, of none of them"

TIMED_ELSEWHERE = (
    "channels were chosen by what the INT8 form takes in ONNX Runtime on the processor of the machine that optimized, "
    "not on {target}"
)
TRIALS_TIMED = "; the times of the trials are {whose}"

NOT_NARROWED = "no narrower network held the metric and the parity gate: the whole one ships, in INT8 as of level 1"


def evaluation_fold(data: Sequence[Path], fold: str, *, drawn: Collection[Path] = ()) -> str:
    """Returns the fold to judge on where no other is asked for: val if all have one and ``fold`` is trained on.

    The training drew a val fold of the folders in ``drawn``.
    """
    trained = fold in (TRAIN_FOLD, ALL)
    has_val = (root.is_dir() and (root in drawn or has_fold(root, VAL_FOLD)) for root in data)
    return VAL_FOLD if data and trained and all(has_val) else fold


@dataclasses.dataclass(frozen=True, slots=True)
class _Measured:
    """What levels 2 and 3 both begin with."""

    folder: Path
    context: Context
    setup: DistillationSetup
    sensitivity: Sensitivity
    make_int8: MakeInt8


def prune_model(clean: Path, context: Context) -> PruningResult:
    """Prunes a cleaned float graph and fine-tunes it.

    Raises:
        PruningError: The model can't be pruned, or not by so much.
        TrainingError: Fine-tuning doesn't end in a usable model.
        MissingExtraError: torch or torch-pruning is not installed.
    """
    try:
        import torch
        import torch_pruning  # noqa: F401  is needed below; its absence is said here
    except ImportError as error:
        raise MissingExtraError(
            "levels 2 and 3 need torch and torch-pruning", action="Run pip install 'lineside[train]'."
        ) from error
    if context.limits.effort.threads is not None:
        torch.set_num_threads(context.limits.effort.threads)
    measured = _measure(clean, context)
    notes = _notes(context)
    result = _prune(measured)
    return _with_fitted_scores(measured.setup, dataclasses.replace(result, notes=(*notes, *result.notes)))


def _measure(clean: Path, context: Context) -> _Measured:
    from lineside_converters.distillation.distill import distillation_setup
    from lineside_converters.pruning.structured import measure_sensitivity

    effort, seed, work = context.limits.effort, context.limits.seed, context.work.folder
    folder = work / f"slim-{_key(clean, context)}"
    folder.mkdir(parents=True, exist_ok=True)
    setup = distillation_setup(
        clean, context.manifest, context.data.folders, _frames(context), batch=effort.batch, seed=seed
    )
    make_int8 = int8_maker(context)
    kept = work / f"sensitivity-{_key(clean, context, MEASURED_BY)}"  # one for all speeds and schedules
    kept.mkdir(exist_ok=True)
    sensitivity = measure_sensitivity(
        setup.network,
        setup.objective,
        setup.distillation_loss,
        frame=setup.frames[0],
        seed=seed,
        work=kept,
        report=context.progress.report,
        make_int8=make_int8,
    )
    return _Measured(folder, context, setup, sensitivity, make_int8)


def _prune(measured: _Measured) -> PruningResult:
    from lineside_converters.pruning.torch_graph import close_network

    folder, searches = measured.folder, measured.context.level.searches
    try:
        plan, pruned, record = _level2(measured)
    except PruningError as error:
        if not searches:
            raise
        measured.context.progress.report(f"level 2: {error}; the search goes on without it")
        return _search(measured, None, _whole(measured))
    result = PruningResult(folder / "clean.onnx", curves_of(measured.sensitivity, plan.widths), {"pruning": record})
    if searches:
        return _search(measured, pruned, result)
    close_network(pruned, folder / "pruned.onnx", measured.setup.frames)
    clean_graph(folder / "pruned.onnx", folder / "clean.onnx")
    return result


def _whole(measured: _Measured) -> PruningResult:
    """Returns the whole network, from which a search starts where level 2 cannot reach its speed."""
    context, setup, sensitivity = measured.context, measured.setup, measured.sensitivity
    record = {
        "effort": dataclasses.asdict(context.limits.effort),
        "data": setup.objective.facts,
        "whole": setup.objective.evaluate(setup.teacher),
    }
    curves = curves_of(sensitivity, sensitivity.widths)
    return PruningResult(measured.folder / "clean.onnx", curves, {"pruning": record})


def _level2(measured: _Measured) -> tuple[PrunePlan, PrunableNetwork, dict[str, Any]]:
    """Returns the choice, its network and the record of the training."""
    from lineside_converters.distillation.trainer import train_student
    from lineside_converters.pruning.structured import apply_plan, plan_pruning, timed_beside

    context, setup = measured.context, measured.setup
    effort = context.limits.effort
    plan = plan_pruning(
        setup.network,
        measured.sensitivity,
        speedup=effort.speedup,
        timed=timed_beside(setup.network, setup.frames, measured.make_int8),
        work=measured.folder,
        report=context.progress.report,
    )
    pruned = apply_plan(setup.network, plan, setup.objective)
    before = setup.objective.evaluate(setup.teacher)
    curve = train_student(
        pruned.module,
        setup.teacher,
        setup.objective,
        setup.distillation_loss,
        settings=distillation_settings(effort, context.limits.seed),
        out=measured.folder,
        on_progress=_training_reporter(context.progress),
    )
    sensitivity = measured.sensitivity
    return (
        plan,
        pruned,
        {
            "effort": dataclasses.asdict(effort),
            "harm_is": f"{setup.distillation_loss.name}: loss against the whole model's answers",
            "widths": {name: [sensitivity.widths[name], width] for name, width in plan.widths.items()},
            "left_whole": sensitivity.left,
            "measured_speedup": plan.measured_speedup,
            "predicted_harm": plan.predicted_harm,
            "data": setup.objective.facts,
            "whole": before,
            "curve": curve,
        },
    )


def _search(measured: _Measured, pruned: PrunableNetwork | None, level2: PruningResult) -> PruningResult:
    """Searches around level 2's network, and returns the network to ship."""
    from lineside_converters.search import pipeline
    from lineside_converters.search.space import widths_of
    from lineside_converters.search.trials import SearchContext

    context, setup = measured.context, measured.setup
    effort = context.limits.effort
    space = pipeline.space_for(context, setup, measured.sensitivity)
    timed_on = hashlib.sha256(" ".join(space.engines).encode()).hexdigest()[:16]
    folder = measured.folder / f"timed-{timed_on}"  # times of another engine or device would choose another network
    folder.mkdir(exist_ok=True)
    bench = SearchContext(context, setup, measured.sensitivity, space, context.progress)
    budget = pipeline.SearchBudget(
        trials=effort.trials,
        shortlist=effort.shortlist,
        settings=distillation_settings(effort, context.limits.seed),
    )
    series = pipeline.kept_series(
        folder / "series.json",
        lambda: pipeline.timed_together(
            bench,
            {
                pipeline.WHOLE: pipeline.judge(bench, setup.network, folder / "whole"),
                pipeline.LEVEL2: pipeline.judge(bench, pruned, folder / "level2") if pruned is not None else [],
                pipeline.SEARCH: _found(bench, budget, folder, measured.make_int8),
            },
        ),
    )
    shipped = pipeline.choose(
        [each for group in series.values() for each in group],
        source_metric=float(np.mean(list(level2.training["pruning"]["whole"].values()))),
        max_drop=context.limits.max_drop,
        passes=functools.partial(pipeline.answers_alike, context),
    )
    candidates, areas = pipeline.accounts(series, shipped)
    what = next(each.what for each in candidates if each.shipped)
    context.progress.report(f"search: ships {what}, {shipped.latency_ms:.2f} ms, {shipped.metric:.4f}")
    notes, curves = level2.notes, level2.curves
    if shipped not in series[pipeline.LEVEL2]:
        kept = shipped.choice.kept or (1.0,) * len(space.stages)
        curves = curves_of(measured.sensitivity, widths_of(measured.sensitivity, space, kept))
    if shipped in series[pipeline.WHOLE]:
        notes = (*notes, NOT_NARROWED)
        log.warning("%s: %s", context.manifest.identity, NOT_NARROWED)
    record = {"trials": effort.trials, "shortlist": effort.shortlist, "shipped": what}
    return dataclasses.replace(
        level2,
        model=Path(shipped.model),
        notes=notes,
        curves=curves,
        training={**level2.training, "search": record},
        candidates=candidates,
        hypervolumes=areas,
    )


def _found(bench: SearchContext, budget: SearchBudget, folder: Path, make_int8: MakeInt8) -> list[TunedNetwork]:
    """Returns the networks of the search; with annotated data, forms that inherit each other's training."""
    from lineside_converters.search import pipeline, progressive
    from lineside_converters.training.objective import LabelledObjective

    if not isinstance(bench.setup.objective, LabelledObjective):
        return pipeline.find(bench, budget, folder / "search")
    return progressive.find_progressive(
        progressive.progressive_context(bench, make_int8=make_int8),
        trials=budget.trials,
        finished=budget.shortlist,
        settings=budget.settings,
        folder=folder / "progressive",
    )


def _with_fitted_scores(setup: DistillationSetup, result: PruningResult) -> PruningResult:
    """Fits scores and thresholds to the new network, where the objective can: its scores aren't its teacher's."""
    from lineside_converters.search.trials import OnnxModule

    fitted = setup.objective.reading(OnnxModule(result.model, setup.network))
    notes = result.notes if fitted is None else (*result.notes, FITTED)
    return dataclasses.replace(result, postprocess=fitted, notes=notes)


def _notes(context: Context) -> tuple[str, ...]:
    notes = [TRAINED_ON] if judges_on_training(context) else []
    if not context.target.here or context.target.kind != "cpu":
        clock = context.limits.clock
        whose = "that machine's too" if clock is None else f"those of {clock.device}"
        trials = TRIALS_TIMED.format(whose=whose) if context.level.searches else ""
        notes.append(TIMED_ELSEWHERE.format(target=context.target.name) + trials)
        log.warning("%s: %s", context.manifest.identity, notes[-1])
    return tuple(notes)


def judges_on_training(context: Context) -> list[Path]:
    """Returns the folders of which images are judged on that the pruned model is fine-tuned on."""

    def trained(root: Path) -> set[Path]:
        fold = TRAIN_FOLD if has_fold(root, TRAIN_FOLD) else ALL
        return {sample.path for sample in load_dataset(root, fold).samples}

    judged = context.inputs.evaluation_files
    return [root for root in context.data.folders if judged and judged & trained(root)]


def distillation_settings(effort: Effort, seed: int) -> DistillationSettings:
    """Returns the settings of the fine-tuning."""
    import torch

    from lineside_converters.distillation.trainer import DistillationSettings

    return DistillationSettings(
        learning_rate=effort.learning_rate,
        true_weight=effort.true_weight,
        teach_weight=effort.teach_weight,
        epochs=effort.epochs,
        minutes=effort.minutes,
        evaluate_every=max(1, effort.epochs // 4),
        threads=effort.threads or torch.get_num_threads(),
        bf16=effort.bf16,
        teacher_bf16=effort.teacher_bf16,
        seed=seed,
    )


def int8_maker(context: Context) -> MakeInt8:
    """Returns a function that writes the INT8 form of a float file beside it, for timing."""
    feeds = context.inputs.calibration
    some = evenly_spread(feeds, COSTING_FEEDS)

    def make_int8(path: Path) -> Path:
        clean, int8 = path.with_name("trial-clean.onnx"), path.with_name("trial-int8.onnx")
        clean_graph(path, clean)
        quantize(
            clean,
            int8,
            feeds=some,
            activation=context.target.activation,
            per_channel=context.target.per_channel,
            exclude=first_convs(onnx.load(clean), FLOAT_CONVS[context.manifest.task]),
        )
        return int8

    return make_int8


def curves_of(found: Sensitivity, widths: Mapping[str, int]) -> tuple[SensitivityCurve, ...]:
    """Returns the sensitivity as a report draws it: minus the harm is the metric, 0 is the whole network's."""
    return tuple(
        SensitivityCurve(
            layer=curve.group,
            ratios=tuple(round(1 - kept, 6) for kept in curve.kept),
            metrics=tuple(-harm for harm in curve.harm),
            chosen=round(1 - widths[curve.group] / found.widths[curve.group], 6),
        )
        for curve in found.groups
    )


def _frames(context: Context) -> list[Tensor]:
    import torch

    feeds = context.inputs.calibration
    if any(len(feed) != 1 for feed in feeds):
        raise PruningError(f"{context.manifest.name} has several inputs", expected=1, actual=sorted(feeds[0]))
    return [torch.from_numpy(next(iter(feed.values()))) for feed in feeds]


def _training_reporter(progress: ProgressReporter) -> OnProgress:
    def report(now: TrainingProgress) -> None:
        progress.count("fine-tune", now.step + 1, now.steps)
        if now.held:
            held = ", ".join(f"{name} {value:.4f}" for name, value in now.held.items())
            progress.report(f"fine-tune: epoch {now.epoch + 1}: {held} on what was kept aside")

    return report


def _key(clean: Path, context: Context, fields: Sequence[str] = ()) -> str:
    """Returns the hash of all that the result depends on; of the effort only some fields, if they are given."""
    effort = dataclasses.asdict(context.limits.effort)
    chosen = {name: value for name, value in effort.items() if not fields or name in fields}
    inputs = {
        "clean": file_hash(clean),
        "feeds": hash_feeds(context.inputs.calibration),
        "data": hash_data(context.data.folders, TRAIN_FOLD),
        "reading": [context.manifest.labels, context.manifest.preprocess, context.manifest.postprocess],
        "effort": {name: float(value) if type(value) is int else value for name, value in chosen.items()},  # 62 is 62.0
        "seed": context.limits.seed,
        "target": [context.target.activation, context.target.per_channel],
    }
    return hashlib.sha256(msgspec.json.encode(inputs, order="sorted")).hexdigest()[:16]
