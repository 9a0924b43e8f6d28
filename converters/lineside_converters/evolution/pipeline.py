"""Retrain the deployed network on new frames, search around it, and compare the result once on held-out parts.

::

    deployed bundle ─► retraining on the train folds ─► level 3 of the optimizer ─► gates ─► candidate
                                                          │ chooses between the retrained network and narrower or
                                                          │ shallower ones on frames held out of the train folds
    fold val ─► verdicts of the deployed bundle and of the candidate, paired ─► offered or not

Every step is kept in ``work`` by the hash of all that goes into it. A run that was killed goes on: the training after
its last whole epoch, the search after its last trial.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lineside_converters.bundles.packaging import next_version
from lineside_converters.data.annotation_hash import hash_data
from lineside_converters.evolution.latency_comparison import FRAMES, LatencyComparison, compare_here, compare_on
from lineside_converters.evolution.page import write_page
from lineside_converters.evolution.report import EvolutionReport, judge_candidate
from lineside_converters.evolution.verdict_comparison import VerdictComparison, compare_verdicts
from lineside_converters.optimizer import Optimizer
from lineside_converters.options import DeviceTimer, Effort
from lineside_converters.progress import ProgressReporter
from lineside_converters.reports.report import OptimizationReport, read_report
from lineside_converters.targets import find_target
from lineside_converters.thresholds.frames import FrameRequest, FrameSet, gather_frames
from lineside_converters.training.detection.bundle_facts import OUTPUTS
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.trainer import train_detector
from lineside_converters.training.initial_weights import FACTS
from lineside_converters.training.objective_selection import HELD_SHARE
from lineside_converters.training.progress import TrainingProgress
from lineside_converters.training.run_folder import resumed_or_begun
from lineside_converters.work_folder import WorkFolder, open_work_folder
from lineside_models.datasets import load_dataset
from lineside_models.datasets.base import evenly_spread
from lineside_models.datasets.folds import has_fold
from lineside_runtime.bundle import Bundle, open_bundle, time_now
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import DatasetError, InputError, UnsupportedModelError
from lineside_runtime.files import fsync_folder, write_atomic

WORK, CANDIDATE, REPORT, PAGE = "work", "candidate", "evolution.json", "evolution.html"
TRAIN, VAL = "train", "val"

ALONE = (
    "trained on relabelled frames alone, which are the unusual ones of the line: give the data that the deployed "
    "network was trained on too"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionSettings:
    """Settings of one run.

    Attributes:
        training: Of the retraining: data (the relabelled frames first), epochs, batch and so on; ``out``, ``start``,
            ``labels``, ``canvas_px``, ``reference``, ``group`` and ``held_share`` are set here.
        out: Folder of the result.
        target: As for the `Optimizer`.
        max_drop: How much lower the metric of a converted form may be, and how much higher the verdict error of a
            faster candidate, 0 to 1.
        clock: Device of the fleet that times; ``None`` for this machine.
        licence: Of the candidate's weights; the deployed bundle's if ``None``.
        data_terms: Added to the deployed bundle's.
        publish: Command that publishes the candidate, for the report.
    """

    deployed: Bundle
    training: DetectorConfig
    out: Path
    effort: Effort
    target: str = "cpu"
    max_drop: float = 0.02
    version: str
    clock: DeviceTimer | None = None
    licence: str | None = None
    data_terms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    publish: str = ""
    notes: tuple[str, ...] = ()


def evolve(settings: EvolutionSettings, progress: ProgressReporter) -> EvolutionReport:
    """Makes a candidate and compares it with the deployed bundle; writes ``evolution.json`` and its page.

    ``out/candidate`` is written only if the candidate is offered; one that was refused (`refuse_candidate`) is not.

    Raises:
        UnsupportedModelError: The deployed bundle is no detector that can be trained.
        DatasetError: A data set lacks a fold ``train`` or ``val``, or is not usable.
        InputError: The folder holds something else.
        TrainingError: As for `train_detector`.
        LinesideError: As for `Optimizer.run`; a gate's own where it is not passed.
    """
    _check(settings)
    with open_work_folder(settings.out / WORK, progress.report) as work:
        run = _retrain(settings, work, progress)
        made = _candidate(settings, run, work, progress)
        candidate = open_bundle(made / "bundle")
        frames = gather_frames(candidate, FrameRequest(data=settings.training.data, fold=VAL, take="all"))
        inputs = {
            "deployed": settings.deployed.digest,
            "candidate": candidate.digest,
            "data": hash_data(settings.training.data, VAL),
        }
        verdicts = work.value(
            "verdicts",
            inputs,
            lambda: compare_verdicts(settings.deployed, candidate, frames, progress=progress),
            VerdictComparison,
        )
        where = settings.clock.device if settings.clock is not None else ""
        latency = work.value(
            "latency",
            {**inputs, "on": where},
            lambda: _latency(settings, candidate, frames, work.folder),
            LatencyComparison,
        )
        return _finish(settings, candidate, verdicts, latency)


def free_version(deployed: Bundle, taken: Container[str]) -> str:
    """Returns the next version of a bundle that is not taken."""
    version = next_version(deployed.manifest.version)
    while version in taken:
        version = next_version(version)
    return version


def _check(settings: EvolutionSettings) -> None:
    out = settings.out
    if out.exists() and not (out / WORK).is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something else", expected="a new or empty folder, or one of an earlier call")
    manifest = settings.deployed.manifest
    if {spec.name for spec in manifest.outputs} != set(OUTPUTS):
        raise UnsupportedModelError(
            f"{manifest.identity} cannot be trained further here",
            expected="a detector of `lineside train detector`, or surface-12",
            actual=manifest.postprocess.name,
        )
    for root in settings.training.data:
        for fold in (TRAIN, VAL):
            if not root.is_dir() or not has_fold(root, fold):
                raise DatasetError(
                    f"{root} has no fold {fold!r}",
                    expected="frames to learn from in train, and of other parts to judge on in val",
                    action="Correct frames of more parts, or divide the folder by a folds.csv.",
                )


def _retrain(settings: EvolutionSettings, work: WorkFolder, progress: ProgressReporter) -> Path:
    """Returns the folder of a finished run that began with the deployed weights."""
    manifest = settings.deployed.manifest
    side = manifest.preprocess.min_side  # a network does not generalise to another scale than it was trained at
    annotated = [name for root in settings.training.data for name in load_dataset(root, TRAIN).labels]
    config = msgspec.structs.replace(
        settings.training,
        out=work.folder,
        start=settings.deployed.path,
        labels=tuple(dict.fromkeys((*manifest.labels, *annotated))),
        canvas_px=side if side >= 64 and side % 32 == 0 else settings.training.canvas_px,
        group="",
        held_share=HELD_SHARE,  # the search holds out the same parts
        reference=manifest.preprocess.reference is not msgspec.UNSET,
    )
    seen = hash_data(settings.training.data, TRAIN)
    inputs = {**config.as_dict(), "out": "", "deployed": settings.deployed.digest, "seen": seen}
    key = hashlib.sha256(msgspec.json.encode(inputs, order="sorted")).hexdigest()[:20]
    folder = work.folder / f"retrained-{key}"
    if (folder / FACTS).is_file():
        progress.report("retrained: done by an earlier run")
        return folder
    progress.report(f"retraining {manifest.identity} on {', '.join(root.resolve().name for root in config.data)}")

    def count(now: TrainingProgress) -> None:
        progress.count("retrain", now.step + 1, now.steps)

    train_detector(resumed_or_begun(msgspec.structs.replace(config, out=folder)), count)
    fsync_folder(folder)
    return folder


def _candidate(settings: EvolutionSettings, run: Path, work: WorkFolder, progress: ProgressReporter) -> Path:
    """Returns a folder with the searched network as a bundle that has passed the optimizer's gates."""
    deployed = settings.deployed.manifest
    inputs: dict[str, Any] = {
        "run": run.name,
        "effort": dataclasses.asdict(settings.effort),
        "target": settings.target,
        "max_drop": settings.max_drop,
        "version": settings.version,
        "on": settings.clock.device if settings.clock is not None else "",
        "terms": [settings.licence, dict(settings.data_terms)],
        "judged": hash_data(settings.training.data, VAL),
    }

    def make(folder: Path) -> None:
        Optimizer(
            run,
            settings.target,
            3,
            out=folder / "bundle",
            work=work.folder / "search",
            data=settings.training.data,
            fold=TRAIN,
            judge_fold=VAL,
            max_drop=settings.max_drop,
            name=deployed.name,
            version=settings.version,
            licence=settings.licence or deployed.licence or None,
            data_terms={**(deployed.data_terms or {}), **settings.data_terms} or None,
            effort=settings.effort,
            seed=settings.training.seed,
            clock=settings.clock,
            memory=False,
            on_progress=progress.report,
            on_count=progress.count,
        ).run()

    return work.step(CANDIDATE, inputs, make)


def _latency(settings: EvolutionSettings, candidate: Bundle, frames: FrameSet, work: Path) -> LatencyComparison:
    some = [make().frame for make in evenly_spread(frames.makers, FRAMES)]
    if settings.clock is not None:
        return compare_on(settings.clock, settings.deployed, candidate, some, work=work)
    return compare_here(settings.deployed, candidate, some)


def _finish(
    settings: EvolutionSettings, candidate: Bundle, verdicts: VerdictComparison, latency: LatencyComparison
) -> EvolutionReport:
    offered, why = judge_candidate(verdicts, latency, max_drop=settings.max_drop)
    known = read_evolution(settings.out)
    refused = known.refused if known is not None and known.candidate_sha256 == candidate.digest else ""
    offered = offered and not refused
    optimized = read_report(candidate.path)
    deployed = settings.deployed
    report = EvolutionReport(
        made_at=time_now(),
        deployed=deployed.manifest.identity,
        deployed_sha256=deployed.digest,
        candidate=candidate.manifest.identity,
        candidate_sha256=candidate.digest,
        data=tuple(root.resolve().name for root in settings.training.data),
        verdicts=verdicts,
        latency=latency,
        target=settings.target,
        size_bytes=(deployed.manifest.size_bytes, candidate.manifest.size_bytes),
        network=next((each.what for each in optimized.candidates if each.shipped), ""),
        offered=offered,
        why=why,
        refused=refused,
        publish=settings.publish if offered else "",
        notes=(*settings.notes, *_notes(settings, verdicts, latency), *optimized.notes),
    )
    place, half = settings.out / CANDIDATE, settings.out / f".{CANDIDATE}.part"
    for folder in (place, half):
        shutil.rmtree(folder, ignore_errors=True)
    if offered:
        shutil.copytree(candidate.path, half)
        half.rename(place)
    _write(settings.out, report, optimized)
    return report


def read_evolution(out: Path) -> EvolutionReport | None:
    """Returns the report of an earlier call; ``None`` without one that can be read."""
    try:
        return decode_json((out / REPORT).read_bytes(), type=EvolutionReport)
    except (OSError, msgspec.DecodeError):
        return None


def refuse_candidate(out: Path, why: str) -> EvolutionReport:
    """Withdraws the candidate that an earlier call offered: it is deleted, and not offered again.

    Args:
        why: Who refuses it, and why.

    Raises:
        InputError: None is offered there.
    """
    report = read_evolution(out)
    if report is None or not report.offered:
        raise InputError(f"no candidate is offered in {out}", expected="the --out of an `evolve` that offered one")
    optimized = read_report(out / CANDIDATE)
    report = msgspec.structs.replace(report, offered=False, refused=why, publish="")
    _write(out, report, optimized)
    shutil.rmtree(out / CANDIDATE)
    return report


def _write(out: Path, report: EvolutionReport, optimized: OptimizationReport) -> None:
    write_atomic(out / REPORT, msgspec.json.format(msgspec.json.encode(report), indent=1))
    write_page(out / PAGE, report, optimized)
    fsync_folder(out)


def _notes(settings: EvolutionSettings, verdicts: VerdictComparison, latency: LatencyComparison) -> Sequence[str]:
    notes = [ALONE] if len(settings.training.data) == 1 else []
    if verdicts.false_rejects is None:
        notes.append("fold val holds no good part: nothing is known of false rejects, and the error is that of escapes")
    if not find_target(settings.target).here and settings.clock is None:
        notes.append(f"times are those of {latency.where}, not of {settings.target}: --on names a device that times")
    return notes
