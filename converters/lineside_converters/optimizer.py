"""`Optimizer`: a float model in, a smaller one out, with the proof that it is no worse."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from lineside_converters.calibration_data import gather
from lineside_converters.candidates import float_form, make_forms
from lineside_converters.gates.baseline import baseline_gate
from lineside_converters.gates.process_measurement import measure_processes
from lineside_converters.gates.remote_timing import DeviceTimer, RemoteTiming
from lineside_converters.gates.runner import CallerMetric, CandidateEvaluation, CandidateVariant, Terms, prove
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import level_options
from lineside_converters.loading.source import SourceModel, open_source
from lineside_converters.packaging import build_bundle
from lineside_converters.progress import Count, ProgressReporter, reporter_for
from lineside_converters.pruning.pipeline import Effort, PruningResult, evaluation_fold, parse_effort, slim, told
from lineside_converters.quantization.search import (
    QuantizationChoice,
    QuantizationPlan,
    QuantizationSearch,
    layer_choices,
)
from lineside_converters.reports.builder import disagreements_of, notes_of, report_of, write_pictures
from lineside_converters.reports.model_card import write_card
from lineside_converters.reports.page import beside
from lineside_converters.reports.report import ModelFigures, OptimizationReport, now
from lineside_converters.targets import find_target
from lineside_converters.tasks import task_of
from lineside_converters.work_folder import QUICK, WorkFolder, file_hash, open_until_done, open_work_folder
from lineside_models.frame import Frame
from lineside_models.good_classes import rule_of, with_good_classes
from lineside_models.vision.model_facts import from_arguments
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess
from lineside_runtime.bundle.install import check_target
from lineside_runtime.errors import ConfigError
from lineside_runtime.tensors import Array

if TYPE_CHECKING:
    import torch

log = logging.getLogger("lineside.convert")


@dataclasses.dataclass(frozen=True, slots=True)
class OptimizeResult:
    """What came out.

    Attributes:
        bundle: The new bundle, opened.
        float_figures: Of the source model, in ONNX Runtime.
        int8_figures: Of the bundle's fastest variant on the same frames, INT8 or FP16; ``None`` at level 0.
        report: All that was measured; also the bundle's ``report.json``.
        evaluation: The same with every answer.
        slimmed: What levels 2 and 3 made before it was quantised; ``None`` below. Kept with ``work`` alone.
    """

    bundle: Bundle
    float_figures: ModelFigures
    int8_figures: ModelFigures | None
    report: OptimizationReport
    evaluation: CandidateEvaluation
    slimmed: PruningResult | None = None

    @property
    def speedup(self) -> float:
        """How many times as fast as the source model in ONNX Runtime the fastest variant is, interleaved."""
        return 1 / self.evaluation.accepted[0].ratio

    @property
    def size_ratio(self) -> float:
        """Size of the fastest variant's files as a share of the source model's."""
        return self.evaluation.accepted[0].figures.size_bytes / self.float_figures.size_bytes

    @property
    def memory_ratio(self) -> float | None:
        """Peak memory of a process of its own that runs it as a share of the source model's, if it was measured."""
        before, after = self.float_figures.memory_bytes, self.evaluation.accepted[0].figures.memory_bytes
        return after / before if before and after else None

    @property
    def throughput_ratio(self) -> float | None:
        """Frames a second, with a caller for each core, in terms of the source model's, if they were measured."""
        before, after = self.float_figures.throughput_fps, self.evaluation.accepted[0].figures.throughput_fps
        return after / before if before and after else None


class Optimizer:
    """Compresses a model and packages it if it passes its gates.

    ::

        result = Optimizer(model_path="detector.onnx", target_device="cpu", optimization_level=1).run()
        print(result.bundle.path, result.int8_figures)
    """

    def __init__(
        self,
        model_path: Path | str | torch.nn.Module,
        target_device: str = "cpu",
        optimization_level: int = 1,
        *,
        out: Path | str | None = None,
        frames: Iterable[Frame | Array | Mapping[str, Array]] | Path | str | None = None,
        data: Path | str | Sequence[Path | str] | None = None,
        fold: str = "train",
        judge_fold: str | None = None,
        metric: CallerMetric | None = None,
        max_drop: float = 0.02,
        min_metric: float | None = None,
        version: str | None = None,
        name: str | None = None,
        labels: Sequence[str] | None = None,
        preprocess: Preprocess | Mapping[str, Any] | None = None,
        postprocess: Postprocess | Mapping[str, Any] | None = None,
        good_classes: Sequence[str] | None = None,
        card: str = "",
        training: Mapping[str, Any] | None = None,
        architecture: str = "",
        trust: bool = False,
        overwrite: bool = False,
        work: Path | str | None = None,
        memory: bool = False,
        seed: int = 20,
        effort: Effort | Mapping[str, Any] | None = None,
        clock: DeviceTimer | None = None,
        on_progress: Callable[[str], None] | None = None,
        on_count: Count | None = None,
    ) -> None:
        """Checks the arguments; nothing is read yet.

        Args:
            model_path: A bundle's folder, a ``.lsb``, ``.onnx`` or ``.pt`` file, a finished training run's folder, or a
                torch module.
            target_device: What it is for: a board's profile such as ``rpi5``, ``x86`` or ``cuda:0``, or a kind of
                device: ``cpu``, ``gpu`` or ``npu``. One that isn't here is not measured on, and the report says so.
            optimization_level: 0 cleans the float graph, 1 makes it INT8.
            out: Folder of the new bundle; ``<name>-<version>-<precision>`` in the working folder if not given.
            frames: What to calibrate on: frames of the line, images, a folder of photos, or the model's own inputs;
                else images of ``data``, else the line simulator's.
            data: Folder with annotated images, or several, to compare accuracy on.
            fold: Of ``data``: to calibrate and to choose on.
            judge_fold: Of ``data``: that accuracy is judged on. Not given, the val fold if all of ``data`` have one, as
                a model has usually learnt from ``fold``; else other frames of ``fold``.
            metric: The caller's own measure, for models whose outputs nobody here reads.
            max_drop: How much lower the task's metric may be, 0 to 1.
            min_metric: Least value of the task's metric, 0 to 1, in place of the baseline gate's limits; 0 takes any
                model, and the report says so.
            version: Of the new bundle; the source's with its last number one higher if not given.
            name: Of the new bundle; the source's if not given, without ``-float`` where it is INT8.
            labels: Class names of a bare model, in the order of its outputs.
            preprocess: How an image becomes the input of a bare model.
            postprocess: How the outputs of a bare model become answers.
            good_classes: Of a classifier's labels, those that mean a good part; empty where every one is a defect. Not
                given, what the model says of it, or the names: ``good``, ``ok``, ``free``.
            card: Text of the model card; the source bundle's if not given. The figures of this build are added.
            training: What the training says of itself, for ``report.json``; the source bundle's if not given.
            architecture: Of a ``.pt``: the network's name in torchvision or timm; told by its keys if not given.
            trust: Read a ``.pt`` although reading it can run code from it: only for files that you made yourself.
            overwrite: Whether a bundle that stands at ``out`` is replaced.
            work: Folder that keeps finished steps, so that a run that was killed goes on where it was. Not given,
                levels 2 and 3 keep them beside ``out``, in ``<out>.work``, until all is done.
            memory: Whether peak memory and throughput of fresh processes are measured too: some seconds a variant.
            seed: Of everything that is drawn.
            effort: At levels 2 and 3, how much faster pruning is to make the model, how long is trained and how much
                is tried: an `Effort`, or some of its fields.
            clock: A device where an agent runs, which times the forms for the speed gate, such as
                `lineside.optimizer.device_clock` makes; else this machine does where it is such a target.
            on_progress: Told in words what is going on; without it and ``on_count``, a terminal is.
            on_count: Told how much of a long step is done: its name, how many, of how many.

        Raises:
            ConfigError: A value out of range.
            ConvertError: This release has no such level.
        """
        self._model = Path(model_path) if isinstance(model_path, (str, Path)) else model_path
        self._target = find_target(target_device)
        self._recipe = level_options(optimization_level)
        self._out = None if out is None else Path(out)
        self._frames = _checked_frames(frames)
        folders: Sequence[Path | str] = () if data is None else (data,) if isinstance(data, (str, Path)) else data
        self._data = tuple(Path(folder) for folder in folders)
        self._fold, self._judge_fold, self._metric = fold, judge_fold, metric
        if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not 0 <= max_drop <= 1:
            raise ConfigError("max_drop", expected="a number 0 to 1", actual=repr(max_drop))
        if min_metric is not None and not 0 <= min_metric <= 1:
            raise ConfigError("min_metric", expected="a number 0 to 1", actual=repr(min_metric))
        self._max_drop, self._min_metric, self._seed = float(max_drop), min_metric, seed
        self._version, self._name = version, name
        self._facts = from_arguments(labels, preprocess, postprocess)
        self._good_classes = good_classes
        self._card, self._training = card, training
        self._architecture = architecture
        self._trust, self._overwrite, self._memory = trust, overwrite, memory
        self._work = None if work is None else Path(work)
        self._effort = effort if isinstance(effort, Effort) else parse_effort(effort or {})
        self._clock = clock
        if clock is not None:
            self._target = dataclasses.replace(self._target, here=False)
        self._on_progress, self._on_count = on_progress, on_count
        self._voice = ProgressReporter(log.info)

    def run(self) -> OptimizeResult:
        """Opens, cleans, calibrates, quantises, converts, proves and packages. A failed gate leaves no bundle.

        Raises:
            InputError: The model or the frames can't be used.
            GraphError: The model's graph can't be read or quantised.
            CalibrationError: There is no usable frame to calibrate on.
            ParityGateError: The outputs differ too much from the source model's.
            AccuracyGateError: Accuracy drops by more than ``max_drop``, or the model is hardly better than a constant
                answer.
            SpeedGateError: The new model is slower.
            BrokerError: The device that is to time it doesn't answer.
            TimingError: It may not or can't.
        """
        with reporter_for(self._on_progress, self._on_count) as self._voice, self._workplace() as work:
            source = self._open(work)
            manifest = self._manifest(source)
            out = self._out or Path(f"{manifest.name}-{manifest.version}-{self._recipe.precision}")
            check_target(out, overwrite=self._overwrite)
            self._voice.say(f"{source.facts.name}: level {self._recipe.level}, {self._recipe.name}")
            if self._clock is not None:
                self._voice.say(f"{self._clock.device} is there, {self._clock.check() or 'a board of no known kind'}")
            terms = self._terms(source, manifest, self._clean(source, work))
            slimmed = self._slim(terms, work)
            if slimmed is not None:
                terms = dataclasses.replace(terms, clean=slimmed.model)
            chosen, int8 = self._quantise(terms, work)
            made, absent = make_forms(terms, chosen.plan, int8, work, self._voice)
            proof = self._prove(terms, made, work)
            proof = dataclasses.replace(proof, rejected=(*absent, *proof.rejected))
            if self._memory:
                proof = measure_processes(terms, proof, work.folder, self._voice)
            return self._package(out, source, terms, proof, chosen, int8, slimmed)

    def _workplace(self) -> AbstractContextManager[WorkFolder]:
        """What takes minutes is made again after a kill; what takes hours is kept, asked for or not."""
        if self._work is not None or not self._recipe.slims:
            return open_work_folder(self._work, self._voice.say)
        named = type(self._model).__name__ if not isinstance(self._model, Path) else self._model.stem
        place = self._out or Path(f"{named}-level{self._recipe.level}")
        return open_until_done(place.with_name(f"{place.name}.work"), self._voice.say)

    def _open(self, work: WorkFolder) -> SourceModel:
        folder = work.folder / "source"
        return open_source(
            self._model,
            folder,
            given=self._facts,
            trust=self._trust,
            frames=self._frames,
            architecture=self._architecture,
        )

    def _manifest(self, source: SourceModel) -> Manifest:
        name, labels = source.manifest.name, source.manifest.labels
        reading = with_good_classes(source.manifest.postprocess, labels, self._good_classes)
        if rule := rule_of(reading, labels):
            self._voice.say(rule)
        return msgspec.structs.replace(
            source.manifest,
            name=self._name or (name.removesuffix("-float") if self._recipe.quantizes else name),
            version=self._version or next_version(source.manifest.version),
            created_at=now(),
            postprocess=reading,
            golden=None,
            files={},
        )

    def _clean(self, source: SourceModel, work: WorkFolder) -> Path:
        def make(folder: Path) -> None:
            clean_graph(source.model, folder / "clean.onnx")

        return work.step(QUICK, {"source": file_hash(source.model)}, make) / "clean.onnx"

    def _terms(self, source: SourceModel, manifest: Manifest, clean: Path) -> Terms:
        limit = self._recipe.calibration_frames
        judged = self._judge_fold or evaluation_fold(self._data, self._fold)
        inputs = gather(manifest, limit=limit, frames=self._frames, data=self._data, fold=self._fold, judge_fold=judged)
        terms = Terms(
            source=source.model,
            clean=clean,
            manifest=manifest,
            inputs=inputs,
            recipe=self._recipe,
            target=self._target,
            task=task_of(manifest, masks=inputs.masks),
            metric=self._metric,
            max_drop=self._max_drop,
            seed=self._seed,
        )
        for note in notes_of(terms):
            log.warning("%s: %s", manifest.identity, note)
        return terms

    def _slim(self, terms: Terms, work: WorkFolder) -> PruningResult | None:
        if not self._recipe.slims:
            return None
        return slim(terms, self._data, self._effort, work, self._voice)

    def _quantise(self, terms: Terms, work: WorkFolder) -> tuple[QuantizationChoice, Path | None]:
        if not self._recipe.quantizes:
            return QuantizationChoice(plan=QuantizationPlan(method="minmax", why="level 0")), None
        self._voice.say(f"calibrate on {terms.inputs.calibration_source}")
        return QuantizationSearch(terms, work, self._voice).choose()

    def _prove(self, terms: Terms, made: Sequence[CandidateVariant], work: WorkFolder) -> CandidateEvaluation:
        if self._clock is None:
            return prove(terms, made, self._voice)
        elsewhere = RemoteTiming(terms, self._clock, work.folder, self._voice)
        proof = prove(terms, made, self._voice, elsewhere.settle)
        return dataclasses.replace(proof, notes=elsewhere.notes)

    def _package(
        self,
        out: Path,
        source: SourceModel,
        terms: Terms,
        proof: CandidateEvaluation,
        chosen: QuantizationChoice,
        int8: Path | None,
        slimmed: PruningResult | None,
    ) -> OptimizeResult:
        feed = terms.inputs.calibration[0]
        layers = layer_choices(terms.clean, int8, chosen, feed) if int8 is not None else ()
        training = dict(source.training if self._training is None else self._training)
        differing = disagreements_of(terms, proof)
        report = report_of(terms, source.facts, proof, chosen, differing, layers=layers, training=training)
        if slimmed is not None:
            report = told(report, slimmed)
        gate = baseline_gate(report, min_metric=self._min_metric)
        self._voice.say(f"baseline: {gate.status}: {gate.detail}")
        report = msgspec.structs.replace(report, gates=(*report.gates, gate))
        forms = _shipped(terms, proof)
        reading = slimmed.postprocess if slimmed is not None else None
        manifest = msgspec.structs.replace(
            terms.manifest,
            postprocess=reading or terms.manifest.postprocess,
            variants=tuple(form.variant for form in forms),
            speed="measured" if not proof.accepted[0].unproven else "unproven",
        )
        bundle = build_bundle(
            out,
            manifest=manifest,
            models={form.variant.file: form.file for form in forms},
            report=report,
            card=write_card(manifest, report, given=self._card or source.card),
            engine=forms[0].engine,
            overwrite=self._overwrite,
        )
        write_pictures(bundle.path, report, terms, differing)
        self._voice.say(f"wrote {bundle.path}, and {beside(bundle.path).name} beside it")
        return OptimizeResult(bundle, report.float, report.int8, report, proof, slimmed)


def next_version(version: str) -> str:
    """Returns the version with its last number one higher: ``1.0.0`` → ``1.0.1``; without a number, ``.1`` is added."""
    found = re.fullmatch(r"(.*?)(\d+)(\D*)", version)
    return f"{found[1]}{int(found[2]) + 1}{found[3]}" if found else f"{version}.1"


def _shipped(terms: Terms, proof: CandidateEvaluation) -> list[CandidateVariant]:
    """Returns what the bundle holds; where speed is unproven the float model too, so that the device can choose."""
    forms = [one.candidate for one in proof.accepted]
    measured = all(gate.status == "passed" for one in proof.accepted for gate in one.gates)
    if measured or not terms.recipe.quantizes:
        return forms
    return [*forms, float_form(terms)]


def _checked_frames(frames: Any) -> Any:
    """Returns what was given, an iterator as a list: the frames are gone through more than once."""
    if frames is None or isinstance(frames, (str, Path, Frame, np.ndarray, Sequence)):
        return frames
    if isinstance(frames, Iterable) and not isinstance(frames, Mapping):
        return list(frames)
    raise ConfigError("frames", expected="a folder, or an iterable of frames or arrays", actual=type(frames).__name__)
