"""What all stages of one run share."""

from __future__ import annotations

import dataclasses

from lineside_converters.candidate import SourceModel
from lineside_converters.cluster.tasks import ALONE, TaskRunner
from lineside_converters.data.calibration_data import ModelInputs
from lineside_converters.levels import LevelOptions
from lineside_converters.options import DataOptions, LimitOptions, ModelOptions
from lineside_converters.progress import ProgressReporter
from lineside_converters.targets import Target
from lineside_converters.tasks import Task
from lineside_converters.work_folder import WorkFolder
from lineside_runtime.bundle import Manifest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Source, target, data and limits of a candidate.

    Attributes:
        source: The float model that was given; candidates are compared with it.
        manifest: Manifest of the new bundle, as far as it is known: how frames go in and answers come out.
        inputs: For calibration, tuning and evaluation.
        level: What is done, and the limits of parity and speed.
        task: How answers are judged; ``None`` where they are the caller's.
        work: Keeps finished steps.
        progress: Told what is done.
        data: The caller's options on data.
        model: The caller's options on the model.
        limits: The caller's options on what is measured and allowed.
        tasks: Runs what can run side by side, on a cluster where the caller has one. Nothing that is timed runs there.
    """

    source: SourceModel
    manifest: Manifest
    inputs: ModelInputs
    level: LevelOptions
    target: Target
    task: Task | None
    work: WorkFolder
    progress: ProgressReporter
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    limits: LimitOptions = dataclasses.field(default_factory=LimitOptions)
    tasks: TaskRunner = ALONE

    @property
    def judges_accuracy(self) -> bool:
        """Whether accuracy is compared too, or parity decides alone."""
        return bool(self.inputs.evaluation) or self.limits.metric is not None
