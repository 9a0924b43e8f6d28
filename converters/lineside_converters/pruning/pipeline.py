"""Levels 2 and 3: remove channels, then train with the whole model as teacher.

Level 2 takes them where the sensitivity curve says that it hurts least. Level 3 searches around that and ships the
best.

- Widths are chosen by what the INT8 form takes in ONNX Runtime, which is what ships.
- Learnt from is the train fold of the data alone, and of it only what isn't kept aside; the frames that the gates judge
  on are the caller's fold.
- Without data the whole model's answers to the calibration frames are all that is taught.
- Everything that takes long is kept in the working folder by the hash of what goes into it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx

from lineside_converters.gates.runner import Terms
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import FLOAT_CONVS
from lineside_converters.progress import ProgressReporter
from lineside_converters.quantization.static import first_convs, hash_feeds, quantize
from lineside_converters.reports.report import OptimizationReport
from lineside_converters.reports.report_parts import Hypervolume, SearchPoint, SensitivityCurve
from lineside_converters.work_folder import WorkFolder, file_hash
from lineside_models.datasets import ALL, load_dataset
from lineside_models.datasets.folds import has_fold
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import ConfigError, MissingExtraError, PruningError

if TYPE_CHECKING:
    from torch import Tensor

    from lineside_converters.distillation.distill import DistillationSetup
    from lineside_converters.distillation.trainer import DistillationSettings
    from lineside_converters.pruning.structured import PrunePlan, Sensitivity, Shrink
    from lineside_converters.pruning.torch_graph import PrunableNetwork
    from lineside_converters.training.progress import TrainingProgress

log = logging.getLogger("lineside.convert")

COSTING_FEEDS = 12
"""To quantise trial networks with: their ranges only have to be possible, for the speed."""

FITTED = "score calibration and thresholds were fitted to the pruned network, on what was kept aside of the train fold"

MEASURED_BY = ("batch", "threads")
"""What of an effort sensitivity depends on."""

LEARNT_FOLD, VAL_FOLD = "train", "val"

TRAINED_ON = "accuracy was judged on frames that the pruned model was fine-tuned on; give --judge-fold, of none of them"

TIMED_ELSEWHERE = (
    "channels were chosen by what the INT8 form takes in ONNX Runtime on the processor of the machine that optimized, "
    "not on {target}; the times of the trials are that machine's too"
)

NOT_NARROWED = "no narrower network held the metric and the parity gate: the whole one ships, in INT8 as of level 1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is taken out, and how long is taught.

    Attributes:
        speedup: How many times faster pruning alone is to make the INT8 form.
        epochs: Passes over the data when fine-tuning.
        minutes: Wall time after which fine-tuning ends early but whole.
        learning_rate: Its peak.
        true_weight: Of the loss against what is annotated.
        teach_weight: Of the loss against the whole model's answers.
        batch: Frames a step.
        threads: Of torch; ``None``: as many as it takes by itself. Another number gives other last digits.
        bf16: Multiply in bfloat16 when fine-tuning: faster for dense convolutions where the processor does it itself.
        teacher_bf16: The same for the teacher alone, which has no gradients; also faster for depthwise convolutions.
        trials: Networks that level 3 cuts, quantises and times.
        shortlist: How many of them it fine-tunes, each as long as level 2 does.
    """

    speedup: float = 2.1
    epochs: int = 20
    minutes: float | None = None
    learning_rate: float = 6e-4
    true_weight: float = 0.5
    teach_weight: float = 3.0
    batch: int = 16
    threads: int | None = None
    bf16: bool = False
    teacher_bf16: bool = False
    trials: int = 40
    shortlist: int = 4

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("speedup", 1 < self.speedup <= 20, "more than 1, at most 20"),
            ("epochs", self.epochs >= 1, "1 or more"),
            ("minutes", self.minutes is None or self.minutes > 0, "more than 0, or None"),
            ("learning_rate", self.learning_rate > 0, "more than 0"),
            ("true_weight", self.true_weight >= 0, "0 or more"),
            ("teach_weight", self.teach_weight >= 0, "0 or more"),
            ("batch", self.batch >= 1, "1 or more"),
            ("threads", self.threads is None or self.threads >= 1, "1 or more, or None"),
            ("trials", self.trials >= 2, "2 or more"),
            ("shortlist", self.shortlist >= 1, "1 or more"),
        ):
            if not good:
                raise ConfigError(name, expected=expected, actual=getattr(self, name))


def parse_effort(fields: Mapping[str, Any]) -> Effort:
    """Returns an effort of which some fields are given.

    Raises:
        ConfigError: There is no such field, or a value is out of range.
    """
    known = [field.name for field in dataclasses.fields(Effort)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ConfigError("effort", expected=f"fields of {', '.join(known)}", actual=", ".join(unknown))
    try:
        return Effort(**fields)
    except TypeError as error:
        raise ConfigError("effort", expected="numbers", actual=dict(fields)) from error


@dataclasses.dataclass(frozen=True, slots=True)
class PruningResult:
    """What came out.

    Attributes:
        model: The float graph with fewer channels, taught.
        curves: For the report.
        training: What the fine-tuning says of itself.
        notes: What a reader has to know.
        postprocess: How its outputs are read, where scores and thresholds were fitted anew.
        candidates: All that level 3 measured.
        hypervolumes: Of what was found in its several ways.
    """

    model: Path
    curves: tuple[SensitivityCurve, ...]
    training: dict[str, Any]
    notes: tuple[str, ...] = ()
    postprocess: Postprocess | None = None
    candidates: tuple[SearchPoint, ...] = ()
    hypervolumes: tuple[Hypervolume, ...] = ()


def evaluation_fold(data: Sequence[Path], fold: str) -> str:
    """Returns the fold to judge on where no other is asked for: val if all have one and ``fold`` is learnt from."""
    learnt = fold in (LEARNT_FOLD, ALL)
    return VAL_FOLD if data and learnt and all(root.is_dir() and has_fold(root, VAL_FOLD) for root in data) else fold


def slim(
    terms: Terms, data: Sequence[Path], effort: Effort, work: WorkFolder, progress: ProgressReporter
) -> PruningResult:
    """Prunes the model and teaches it again.

    Args:
        terms: Its ``clean`` is what is pruned.
        data: Annotated data; its train fold is learnt from.
        effort: How much, and how long.
        work: Keeps what was measured, chosen and taught.
        voice: Told what is done.

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
    if effort.threads is not None:
        torch.set_num_threads(effort.threads)
    folder = work.folder / f"slim-{_key(terms, data, effort)}"
    folder.mkdir(parents=True, exist_ok=True)
    notes = _notes(terms, data)
    at = _prepare(folder, terms, data, effort, work, progress)
    slimmed = _slim_in(at, terms, effort, progress)
    return _read_anew(at.setup, dataclasses.replace(slimmed, notes=(*notes, *slimmed.notes)))


def _read_anew(setup: DistillationSetup, slimmed: PruningResult) -> PruningResult:
    """Fits scores and thresholds to the new network, where the objective can: its scores aren't its teacher's."""
    from lineside_converters.search.trials import OnnxModule

    reading = setup.objective.reading(OnnxModule(slimmed.model, setup.network))
    notes = slimmed.notes if reading is None else (*slimmed.notes, FITTED)
    return dataclasses.replace(slimmed, postprocess=reading, notes=notes)


@dataclasses.dataclass(frozen=True, slots=True)
class _Prepared:
    """What levels 2 and 3 both begin with."""

    folder: Path
    setup: DistillationSetup
    found: Sensitivity
    shrink: Shrink


def _prepare(
    folder: Path, terms: Terms, data: Sequence[Path], effort: Effort, work: WorkFolder, progress: ProgressReporter
) -> _Prepared:
    from lineside_converters.distillation.distill import distillation_setup
    from lineside_converters.pruning.structured import measure_sensitivity

    setup = distillation_setup(terms.clean, terms.manifest, data, _frames(terms), batch=effort.batch, seed=terms.seed)
    shrink = int8_maker(terms)
    # Of every speed and schedule alike.
    measured = work.folder / f"sensitivity-{_key(terms, data, effort, MEASURED_BY)}"
    measured.mkdir(exist_ok=True)
    found = measure_sensitivity(
        setup.network,
        setup.objective,
        setup.distillation_loss,
        frame=setup.frames[0],
        seed=terms.seed,
        work=measured,
        say=progress.say,
        shrink=shrink,
    )
    return _Prepared(folder, setup, found, shrink)


def _level2(
    at: _Prepared, terms: Terms, effort: Effort, progress: ProgressReporter
) -> tuple[PrunePlan, PrunableNetwork, dict[str, Any]]:
    """Returns what was chosen, the network that was made of it and what is told of it."""
    from lineside_converters.distillation.trainer import train_student
    from lineside_converters.pruning.structured import apply_plan, plan_pruning, timed_beside

    setup = at.setup
    plan = plan_pruning(
        setup.network,
        at.found,
        speedup=effort.speedup,
        timed=timed_beside(setup.network, setup.frames, at.shrink),
        work=at.folder,
        say=progress.say,
    )
    pruned = apply_plan(setup.network, plan, setup.objective)
    before = setup.objective.evaluate(setup.teacher)
    curve = train_student(
        pruned.module,
        setup.teacher,
        setup.objective,
        setup.distillation_loss,
        settings=distillation_settings(effort, terms.seed),
        out=at.folder,
        on_progress=_teller(progress),
    )
    return plan, pruned, _told(at.found, plan, setup, before, curve, effort)


def _slim_in(at: _Prepared, terms: Terms, effort: Effort, progress: ProgressReporter) -> PruningResult:
    from lineside_converters.pruning.torch_graph import close_network

    folder = at.folder
    plan, pruned, pruning = _level2(at, terms, effort, progress)
    curves = curves_of(at.found, plan.widths)
    if terms.recipe.searches:
        return _search_in(at, terms, pruned, PruningResult(folder, curves, {"pruning": pruning}), effort, progress)
    close_network(pruned, folder / "pruned.onnx", at.setup.frames)
    clean_graph(folder / "pruned.onnx", folder / "clean.onnx")
    return PruningResult(folder / "clean.onnx", curves, {"pruning": pruning})


def _notes(terms: Terms, data: Sequence[Path]) -> tuple[str, ...]:
    notes = []
    if any(terms.inputs.evaluation_files & _learnt_files(root) for root in data):
        notes.append(TRAINED_ON)
    if not terms.target.here or terms.target.kind != "cpu":
        notes.append(TIMED_ELSEWHERE.format(target=terms.target.name))
        log.warning("%s: %s", terms.manifest.identity, notes[-1])
    return tuple(notes)


def _learnt_files(root: Path) -> set[Path]:
    fold = LEARNT_FOLD if has_fold(root, LEARNT_FOLD) else ALL
    return {sample.path for sample in load_dataset(root, fold).samples}


def _search_in(
    at: _Prepared,
    terms: Terms,
    pruned: PrunableNetwork,
    level2: PruningResult,
    effort: Effort,
    progress: ProgressReporter,
) -> PruningResult:
    from lineside_converters.search import pipeline
    from lineside_converters.search.space import widths_of
    from lineside_converters.search.trials import Bench

    bench = Bench(terms, at.setup, at.found, pipeline.space_for(terms, at.setup, at.found), progress)
    budget = pipeline.SearchBudget(
        trials=effort.trials, shortlist=effort.shortlist, settings=distillation_settings(effort, terms.seed)
    )
    series = pipeline.timed_together(
        bench,
        {
            pipeline.WHOLE: pipeline.judge(bench, at.setup.network, at.folder / "whole"),
            pipeline.LEVEL2: pipeline.judge(bench, pruned, at.folder / "level2"),
            pipeline.SEARCH: pipeline.find(bench, budget, at.folder / "search"),
        },
    )
    source = float(np.mean(list(level2.training["pruning"]["whole"].values())))
    shipped = pipeline.choose(
        [each for group in series.values() for each in group],
        source_metric=source,
        max_drop=terms.max_drop,
        passes=functools.partial(pipeline.answers_alike, terms),
    )
    candidates, areas = pipeline.accounts(series, shipped)
    what = next(each.what for each in candidates if each.shipped)
    progress.say(f"search: ships {what}, {shipped.latency_ms:.2f} ms, {shipped.metric:.4f}")
    notes, curves = level2.notes, level2.curves
    if shipped not in series[pipeline.LEVEL2]:
        kept = shipped.choice.kept or (1.0,) * len(bench.space.stages)
        curves = curves_of(at.found, widths_of(at.found, bench.space, kept))
    if shipped in series[pipeline.WHOLE]:
        notes = (*notes, NOT_NARROWED)
        log.warning("%s: %s", terms.manifest.identity, NOT_NARROWED)
    told_of = {"trials": effort.trials, "shortlist": effort.shortlist, "shipped": what}
    return dataclasses.replace(
        level2,
        model=Path(shipped.model),
        notes=notes,
        curves=curves,
        training={**level2.training, "search": told_of},
        candidates=candidates,
        hypervolumes=areas,
    )


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


def int8_maker(terms: Terms, name: str = "trial") -> Any:
    """Returns what makes the INT8 form of a float file beside it, for timing."""
    feeds = terms.inputs.calibration
    some = [feeds[number * len(feeds) // COSTING_FEEDS] for number in range(min(COSTING_FEEDS, len(feeds)))]

    def shrink(path: Path) -> Path:
        clean, int8 = path.with_name(f"{name}-clean.onnx"), path.with_name(f"{name}-int8.onnx")
        clean_graph(path, clean)
        quantize(
            clean,
            int8,
            feeds=some,
            activation=terms.target.activation,
            per_channel=terms.target.per_channel,
            exclude=first_convs(onnx.load(clean), FLOAT_CONVS[terms.manifest.task]),
        )
        return int8

    return shrink


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


def _told(
    found: Sensitivity,
    plan: PrunePlan,
    setup: DistillationSetup,
    before: dict[str, float],
    curve: list[dict[str, float]],
    effort: Effort,
) -> dict[str, Any]:
    return {
        "effort": dataclasses.asdict(effort),
        "harm_is": f"{found.distillation_loss}: loss against the whole model's answers",
        "widths": {name: [found.widths[name], width] for name, width in plan.widths.items()},
        "left_whole": found.left,
        "measured_speedup": plan.measured_speedup,
        "predicted_harm": plan.predicted_harm,
        "data": setup.objective.facts,
        "whole": before,
        "curve": curve,
    }


def _frames(terms: Terms) -> list[Tensor]:
    import torch

    feeds = terms.inputs.calibration
    if any(len(feed) != 1 for feed in feeds):
        raise PruningError(f"{terms.manifest.name} has several inputs", expected=1, actual=sorted(feeds[0]))
    return [torch.from_numpy(next(iter(feed.values()))) for feed in feeds]


def _teller(progress: ProgressReporter) -> Any:
    def report(now: TrainingProgress) -> None:
        progress.count("fine-tune", now.step + 1, now.steps)
        if now.held:
            held = ", ".join(f"{name} {value:.4f}" for name, value in now.held.items())
            progress.say(f"fine-tune: epoch {now.epoch + 1}: {held} on what was kept aside")

    return report


def _key(terms: Terms, data: Sequence[Path], effort: Effort, fields: Sequence[str] = ()) -> str:
    told = {name: value for name, value in dataclasses.asdict(effort).items() if not fields or name in fields}
    inputs = {
        "clean": file_hash(terms.clean),
        "feeds": hash_feeds(terms.inputs.calibration),
        "data": [folder.name for folder in data],
        "effort": {name: float(value) if type(value) is int else value for name, value in told.items()},  # 62 is 62.0
        "seed": terms.seed,
        "target": [terms.target.activation, terms.target.per_channel],
    }
    return hashlib.sha256(msgspec.json.encode(inputs, order="sorted")).hexdigest()[:16]


def told(report: OptimizationReport, slimmed: PruningResult) -> OptimizationReport:
    """Returns the report with what pruning and search have to say."""
    return msgspec.structs.replace(
        report,
        training={**report.training, **slimmed.training},
        curves=slimmed.curves,
        candidates=slimmed.candidates,
        hypervolumes=slimmed.hypervolumes,
        notes=(*report.notes, *slimmed.notes),
    )
