"""Open the source model and collect its inputs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lineside_converters.bundles.packaging import next_version
from lineside_converters.candidate import SourceModel
from lineside_converters.cluster.tasks import ALONE, TaskRunner
from lineside_converters.context import Context
from lineside_converters.data.calibration_data import ModelInputs, gather_inputs
from lineside_converters.data.document_inputs import DOCUMENT_METRIC, gather_documents, is_document_model
from lineside_converters.levels import LevelOptions
from lineside_converters.loading.source import open_source
from lineside_converters.loading.training_run import drawn_folds
from lineside_converters.options import DataOptions, LimitOptions, ModelOptions
from lineside_converters.progress import ProgressReporter
from lineside_converters.pruning.pipeline import evaluation_fold, judges_on_training
from lineside_converters.reports.builder import notes_of
from lineside_converters.targets import Target
from lineside_converters.tasks import task_of
from lineside_converters.work_folder import WorkFolder
from lineside_models.nlp.extraction.contract_parser import text_form
from lineside_models.verdict.good_classes import rule_of, with_good_classes
from lineside_runtime.bundle import Manifest, time_now
from lineside_runtime.bundle.install import check_target
from lineside_runtime.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("lineside.convert")


def load(
    model: Path | torch.nn.Module,
    level: LevelOptions,
    target: Target,
    options: tuple[DataOptions, ModelOptions, LimitOptions],
    *,
    work: WorkFolder,
    progress: ProgressReporter,
    tasks: TaskRunner = ALONE,
) -> Context:
    """Opens the model and collects inputs for calibration, tuning and evaluation."""
    data, model_options, limits = options
    source = open_source(
        model,
        work.scratch("source"),
        given=model_options.facts,
        trust=model_options.trust,
        frames=data.frames,
        architecture=model_options.architecture,
        from_int8=level.level == 1,
        good_classes=model_options.good_classes,
    )
    manifest = _manifest(source, level, model_options, progress)
    _check_out(model, bundle_folder(manifest, level, model_options), overwrite=model_options.overwrite)
    progress.report(f"{source.facts.name}: level {level.level}, {level.name}")
    if limits.clock is not None:
        progress.report(f"{limits.clock.device} is there, {limits.clock.check() or 'a board of no known kind'}")
    folds = drawn_folds(model, data.folders) if isinstance(model, Path) and level.level <= 1 else {}
    for table in folds.values():
        progress.report(f"folds of {table}: those of the training")
    inputs, limits = _inputs(source, manifest, level, data, limits, folds)
    context = Context(
        source=source,
        manifest=manifest,
        inputs=inputs,
        level=level,
        target=target,
        task=task_of(manifest, masks=inputs.masks),
        work=work,
        progress=progress,
        data=data,
        model=model_options,
        limits=limits,
        tasks=tasks,
    )
    if level.level >= 2 and data.judge_fold is None and (undivided := judges_on_training(context)):
        raise DatasetError(
            f"{undivided[0]} has no fold 'val': level {level.level} would judge on images that it trains on",
            expected="folds 'train' and 'val'",
            action="Divide it by a folds.csv (columns image, fold), such as folds-NAME.csv in a training's folder, or "
            "accept it by --judge-fold all.",
        )
    for note in notes_of(context):
        log.warning("%s: %s", manifest.identity, note)
    return context


def _inputs(
    source: SourceModel,
    manifest: Manifest,
    level: LevelOptions,
    data: DataOptions,
    limits: LimitOptions,
    folds: Mapping[Path, Path],
) -> tuple[ModelInputs, LimitOptions]:
    """Returns the inputs; of a model of texts the limits get its metric."""
    if is_document_model(manifest):
        inputs, metric = gather_documents(
            manifest,
            source.files[text_form(manifest).tokenizer],
            limit=level.calibration_frames,
            frames=data.frames,
            data=data.folders,
            fold=data.fold,
            judge_fold=data.judge_fold,
        )
        if limits.metric is None and metric is not None:
            limits = dataclasses.replace(limits, metric=metric, metric_name=DOCUMENT_METRIC)
        return inputs, limits
    inputs = gather_inputs(
        manifest,
        limit=level.calibration_frames,
        frames=data.frames,
        data=data.folders,
        fold=data.fold,
        judge_fold=data.judge_fold or evaluation_fold(data.folders, data.fold, drawn=folds),
        drawn_folds=folds,
    )
    return inputs, limits


def _check_out(model: Path | torch.nn.Module, out: Path, *, overwrite: bool) -> None:
    if isinstance(model, Path) and model.exists() and out.exists() and out.samefile(model):
        raise ConfigError("out", expected="another folder than the source's", actual=out, action="Give another.")
    check_target(out, overwrite=overwrite)


def bundle_folder(manifest: Manifest, level: LevelOptions, options: ModelOptions) -> Path:
    """Returns where the new bundle is written."""
    return options.out or Path(f"{manifest.name}-{manifest.version}-{level.precision}")


def _manifest(source: SourceModel, level: LevelOptions, options: ModelOptions, progress: ProgressReporter) -> Manifest:
    name, labels = source.manifest.name, source.manifest.labels
    postprocess = with_good_classes(source.manifest.postprocess, labels, options.good_classes)
    if rule := rule_of(postprocess, labels):
        progress.report(rule)
    return msgspec.structs.replace(
        source.manifest,
        name=options.name or (name.removesuffix("-float") if level.quantizes else name),
        version=options.version or next_version(source.manifest.version),
        created_at=time_now(),
        postprocess=postprocess,
        golden=None,
        files={},
        licence=options.licence or source.manifest.licence,
        data_terms=dict(options.data_terms) if options.data_terms else source.manifest.data_terms,
    )
