"""`Optimizer`: from a float model to a smaller one in a bundle, with the proof that it is no worse."""

from __future__ import annotations

import dataclasses
import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from lineside_converters.candidate import Candidate, CandidateEvaluation, PruningResult
from lineside_converters.cluster.tasks import open_tasks
from lineside_converters.levels import LevelOptions, level_options
from lineside_converters.options import OptimizerOptions, read_options
from lineside_converters.progress import ProgressReporter, StepListener, reporter_for
from lineside_converters.reports.page import beside
from lineside_converters.reports.report import ModelFigures, OptimizationReport
from lineside_converters.stages.clean import clean
from lineside_converters.stages.convert import convert
from lineside_converters.stages.evaluate import evaluate
from lineside_converters.stages.load import load
from lineside_converters.stages.package import package
from lineside_converters.stages.prune import prune
from lineside_converters.stages.quantize import quantize
from lineside_converters.stages.widths import widths
from lineside_converters.targets import find_target
from lineside_converters.work_folder import WorkFolder, open_until_done, open_work_folder
from lineside_models import zoo
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError
from lineside_runtime.progress import TextListener

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

log = logging.getLogger("lineside.convert")

STAGES = (clean, prune, quantize, convert, evaluate, widths, package)
"""In their order; a stage that a level does not need returns the candidate as it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class OptimizeResult:
    """The new bundle and its figures.

    Attributes:
        float_figures: Figures of the source model, in ONNX Runtime.
        int8_figures: Figures of the bundle's fastest variant on the same frames, INT8 or FP16; ``None`` at level 0.
        report: All that was measured; also the bundle's ``report.json``.
        evaluation: The same with every answer.
        pruning: What levels 2 and 3 made before it was quantized; ``None`` below. Its file is kept with ``work`` alone.
    """

    bundle: Bundle
    float_figures: ModelFigures
    int8_figures: ModelFigures | None
    report: OptimizationReport
    evaluation: CandidateEvaluation
    pruning: PruningResult | None = None

    @property
    def speedup(self) -> float:
        """Speed of the fastest variant in terms of the source model's in ONNX Runtime, timed interleaved."""
        return 1 / self.evaluation.accepted[0].ratio

    @property
    def page(self) -> Path:
        """The report with pictures of frames, which may not travel in the bundle and so lies beside it."""
        return beside(self.bundle.path)

    @property
    def size_ratio(self) -> float:
        """Size of the fastest variant's files as a share of the source model's."""
        return self.evaluation.accepted[0].figures.size_bytes / self.float_figures.size_bytes

    @property
    def memory_ratio(self) -> float | None:
        """Peak memory of a process that runs it as a share of the source model's, if it was measured."""
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
        optimization_level: int | LevelOptions = 1,
        *,
        on_progress: TextListener | None = None,
        on_count: StepListener | None = None,
        **options: Unpack[OptimizerOptions],
    ) -> None:
        """Checks the arguments; nothing is read yet.

        Args:
            model_path: A bundle's folder, the name of a shipped bundle, a ``.lsb``, ``.onnx`` or ``.pt`` file, a
                finished training run's folder, or a torch module.
            target_device: What it is for: a board's profile such as ``rpi5``, ``x86`` or ``cuda:0``, or a kind of
                device: ``cpu``, ``gpu`` or ``npu``. One that isn't here is not measured on, and the report says so.
            optimization_level: 0 cleans the float graph, 1 makes it INT8, 2 prunes and fine-tunes it before that, 3
                searches for what to prune. Or the options of a level, with limits of the caller's.
            on_progress: Told in words what is done; without it and ``on_count``, a terminal is.
            on_count: Told how much of a long step is done: its name, how many, of how many.
            options: Keyword arguments, see `lineside.optimizer.OptimizerOptions`.

        Raises:
            ConfigError: A value out of range.
            InputNotFoundError: There is no such path, and it looks like the name of a shipped bundle.
            ConvertError: This release has no such level.
        """
        self._model = zoo.find(model_path) if isinstance(model_path, (str, Path)) else model_path
        target = find_target(target_device)
        given = optimization_level
        self._level = given if isinstance(given, LevelOptions) else level_options(given)
        self._options = read_options(options)
        if options.get("effort") and not self._level.prunes:
            raise ConfigError(
                "effort",
                expected="optimization_level 2 or 3, which fine-tune",
                actual=f"level {self._level.level}",
                action="Leave the options of fine-tuning out, or ask for level 2 (--level 2).",
            )
        _, self._model_options, limits = self._options
        self._target = target if limits.clock is None else dataclasses.replace(target, here=False)
        self._on_progress, self._on_count = on_progress, on_count

    def run(self) -> OptimizeResult:
        """Runs the stages. A failed gate leaves no bundle.

        Raises:
            InputError: The model or the frames can't be used.
            GraphError: The model's graph can't be read or quantized.
            CalibrationError: There is no usable frame to calibrate on.
            ParityGateError: The outputs differ too much from the source model's.
            AccuracyGateError: Accuracy drops by more than ``max_drop``, or the model is hardly better than a constant
                answer.
            SpeedGateError: The new model is slower.
            BrokerError: The device that is to time it doesn't answer.
            TimingError: It may not or can't.
            ClusterError: The cluster can't be reached, or a task of it has died too often.
        """
        with (
            reporter_for(self._on_progress, self._on_count) as progress,
            self._work_folder(progress) as work,
            open_tasks(self._model_options.cluster) as tasks,
        ):
            context = load(
                self._model, self._level, self._target, self._options, work=work, progress=progress, tasks=tasks
            )
            candidate = Candidate(model=context.source.model)
            for stage in STAGES:
                candidate = stage(candidate, context)
        return _result(candidate)

    def _work_folder(self, progress: ProgressReporter) -> AbstractContextManager[WorkFolder]:
        """Opens a folder for finished steps: one that is kept if the caller gave it or if steps take hours."""
        options = self._model_options
        if options.work is not None or not self._level.prunes:
            return open_work_folder(options.work, progress.report)
        name = self._model.stem if isinstance(self._model, Path) else type(self._model).__name__
        out = options.out or Path(f"{name}-level{self._level.level}")
        return open_until_done(out.with_name(f"{out.name}.work"), progress.report)


def _result(candidate: Candidate) -> OptimizeResult:
    if candidate.bundle is None or candidate.report is None:
        raise RuntimeError("the last stage packages")
    report = candidate.report
    return OptimizeResult(candidate.bundle, report.float, report.int8, report, candidate.evaluated, candidate.pruning)
