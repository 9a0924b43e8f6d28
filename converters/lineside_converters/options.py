"""Options of the `Optimizer` beside its three arguments: `OptimizerOptions` as given, and in three structs as used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np

from lineside_converters.cluster.tasks import TaskCluster
from lineside_link.messages import Shapes, TimeAnswer
from lineside_models.frame import Frame
from lineside_models.vision.model_facts import ModelFacts, from_arguments
from lineside_runtime.bundle import Postprocess, Preprocess
from lineside_runtime.errors import ConfigError
from lineside_runtime.tensors import Array

CallerMetric = Callable[[Callable[[Mapping[str, Array]], dict[str, Array]]], Sequence[float]]
"""Takes a function that runs a model, inputs by name to outputs by name; returns a score a sample, higher is better."""


MIN_SPEEDUP = 1.1
"""Least gain of an INT8 variant that costs accuracy: below it, the float model is the better one to ship."""


class DeviceTimer(Protocol):
    """A device that times bundles, such as `lineside_hub.fleet.device_timing.DeviceClock`."""

    device: str

    def check(self) -> str:
        """Returns the device's facts; raises if it cannot or may not time variants."""
        ...

    def time(self, bundle: Path, *, rounds: int, shapes: Shapes) -> TimeAnswer:
        """Returns the times of a bundle's variants, measured in turn, with inputs of each of the shapes."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Budget and goal of levels 2 and 3.

    Attributes:
        speedup: Speed of the pruned INT8 form in terms of the whole network's.
        epochs: Passes over the data when fine-tuning.
        minutes: Wall time after which fine-tuning ends its schedule early.
        learning_rate: Peak learning rate.
        true_weight: Weight of the loss against the annotations.
        teach_weight: Weight of the loss against the whole network's answers.
        batch: Frames a step.
        threads: Threads of torch; ``None``: torch's own choice. Another number gives other last digits.
        bf16: Multiply in bfloat16 when fine-tuning: faster for dense convolutions where the processor does it itself.
        teacher_bf16: The same for the teacher alone, which has no gradients; also faster for depthwise convolutions.
        trials: Networks that level 3 prunes, quantizes and times.
        shortlist: How many of them it fine-tunes, each as long as level 2 does; with annotated data the slowest one,
            and faster ones for more epochs in about the same time.
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


class OptimizerOptions(TypedDict, total=False):
    """Keyword arguments of the `Optimizer`.

    Attributes:
        frames: What to calibrate on: frames of the line, images, a folder of photos, or the model's own inputs; else
            images of ``data``, else the line simulator's.
        data: Folder with annotated images, or several, to compare accuracy on.
        fold: Fold of ``data`` to calibrate and to choose on; ``train`` if not given.
        judge_fold: Fold of ``data`` that accuracy is judged on. Not given, the val fold if all of ``data`` have one, as
            a model was usually trained on ``fold``; else other frames of ``fold``.
        metric: The caller's own measure, for models whose outputs lineside does not read.
        max_drop: How much lower the task's metric may be, 0 to 1; 0.02 if not given.
        min_speedup: How many times as fast as the float model an INT8 variant must be if it costs accuracy, or if that
            can't be compared; 1.1 if not given. 1 takes any that is not slower, for its smaller file.
        min_metric: Least value of the task's metric, 0 to 1, in place of the baseline gate's limits; 0 takes any model,
            and the report says so.
        memory: Whether peak memory and throughput of fresh processes are measured too: some seconds a variant.
        seed: Seed of the random generators; 20 if not given.
        effort: At levels 2 and 3, the speed to reach and how long to train and to search: an `Effort`, or some of its
            fields.
        clock: A device where an agent runs, which times the variants for the speed gate and the networks of level 3's
            search, such as `lineside.optimizer.device_clock` makes; else this machine does where it is such a target.
        out: Folder of the new bundle; ``<name>-<version>-<precision>`` in the working folder if not given.
        overwrite: Whether a bundle that stands at ``out`` is replaced.
        work: Folder that keeps finished steps, so that a run that was killed resumes. Not given, levels 2 and 3 keep
            them beside ``out``, in ``<out>.work``, until the run has ended.
        cluster: Cores of a Ray cluster for what can run side by side: the harm of each layer that becomes INT8, and
            the trials of level 3. Not given, this process does it; the result is the same, but for what is timed.
        version: Version of the new bundle; the source's with its last number one higher if not given.
        name: Name of the new bundle; the source's if not given, without ``-float`` where it is quantized.
        labels: Class names of a bare model, in the order of its outputs.
        preprocess: How an image becomes the input of a bare model.
        postprocess: How the outputs of a bare model become answers.
        good_classes: Those of a classifier's labels that mean a good part; empty where every one is a defect.
            Not given, what the model says of it, or the names: ``good``, ``ok``, ``free``.
        card: Text of the model card; the source bundle's if not given. The figures of this build are added.
        training: Record of the training for ``report.json``; the source bundle's if not given.
        architecture: Name of a ``.pt``'s network in torchvision or timm; told by its keys if not
            given.
        trust: Read a ``.pt`` although reading it can run code from it: only for files that you made yourself.
        licence: Of the weights; the source bundle's if not given.
        data_terms: Terms of the data that it was trained on, by name of the data set, see `Manifest`; the source
            bundle's if not given.
    """

    frames: Iterable[Frame | Array | Mapping[str, Array]] | Path | str | None
    data: Path | str | Sequence[Path | str] | None
    fold: str
    judge_fold: str | None
    metric: CallerMetric | None
    max_drop: float
    min_speedup: float
    min_metric: float | None
    memory: bool
    seed: int
    effort: Effort | Mapping[str, Any] | None
    clock: DeviceTimer | None
    out: Path | str | None
    overwrite: bool
    work: Path | str | None
    cluster: TaskCluster | None
    version: str | None
    name: str | None
    labels: Sequence[str] | None
    preprocess: Preprocess | Mapping[str, Any] | None
    postprocess: Postprocess | Mapping[str, Any] | None
    good_classes: Sequence[str] | None
    card: str
    training: Mapping[str, Any] | None
    architecture: str
    trust: bool
    licence: str | None
    data_terms: Mapping[str, str] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """What to calibrate and to judge on, see `OptimizerOptions`."""

    frames: Any = None
    folders: tuple[Path, ...] = ()
    fold: str = "train"
    judge_fold: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Facts of the source model and the new bundle, see `OptimizerOptions`."""

    out: Path | None = None
    overwrite: bool = False
    work: Path | None = None
    cluster: TaskCluster | None = None
    version: str | None = None
    name: str | None = None
    facts: ModelFacts = dataclasses.field(default_factory=ModelFacts)
    good_classes: Sequence[str] | None = None
    card: str = ""
    training: Mapping[str, Any] | None = None
    architecture: str = ""
    trust: bool = False
    licence: str | None = None
    data_terms: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """Measurements and limits, see `OptimizerOptions`.

    Attributes:
        metric_name: Of `metric` where lineside brings it, such as that of documents; empty for the caller's.
    """

    metric: CallerMetric | None = None
    metric_name: str = ""
    max_drop: float = 0.02
    min_speedup: float = 1.0
    min_metric: float | None = None
    memory: bool = False
    seed: int = 20
    effort: Effort = Effort()
    clock: DeviceTimer | None = None


def read_options(given: OptimizerOptions) -> tuple[DataOptions, ModelOptions, LimitOptions]:
    """Checks the keyword arguments and sorts them into the three structs.

    Raises:
        TypeError: There is no such argument.
        ConfigError: A value is out of range.
    """
    unknown = set(given) - set(OptimizerOptions.__annotations__)
    if unknown:
        raise TypeError(f"Optimizer() got an unexpected keyword argument {min(unknown)!r}")
    values: dict[str, Any] = dict(given)
    drop, least = values.get("max_drop", 0.0), values.get("min_metric")
    if isinstance(drop, bool) or not isinstance(drop, (int, float)) or not 0 <= drop <= 1:
        raise ConfigError("max_drop", expected="a number 0 to 1", actual=repr(drop))
    if least is not None and not 0 <= least <= 1:
        raise ConfigError("min_metric", expected="a number 0 to 1", actual=repr(least))
    gain = values.setdefault("min_speedup", MIN_SPEEDUP)
    if isinstance(gain, bool) or not isinstance(gain, (int, float)) or not 1 <= gain <= 100:
        raise ConfigError("min_speedup", expected="a number 1 to 100", actual=repr(gain))
    if "max_drop" in values:
        values["max_drop"] = float(drop)
    values["facts"] = from_arguments(*(values.pop(name, None) for name in ("labels", "preprocess", "postprocess")))
    values["frames"] = _reusable(values.get("frames"))
    values["folders"] = _paths(values.pop("data", None))
    if values.get("judge_fold") is not None and not values["folders"]:
        raise ConfigError(
            "judge_fold", expected="data to judge on", actual=values["judge_fold"], action="Give data (--data) too."
        )
    values["effort"] = read_effort(values.get("effort"))
    for name in ("out", "work"):
        values[name] = None if values.get(name) is None else Path(values[name])
    data, model, limits = (
        {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}
        for kind in (DataOptions, ModelOptions, LimitOptions)
    )
    return DataOptions(**data), ModelOptions(**model), LimitOptions(**limits)


def read_effort(given: Effort | Mapping[str, Any] | None) -> Effort:
    """Returns an effort of which all, some or no fields are given.

    Raises:
        ConfigError: There is no such field, or a value is out of range.
    """
    if isinstance(given, Effort):
        return given
    fields = given or {}
    known = [field.name for field in dataclasses.fields(Effort)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ConfigError("effort", expected=f"fields of {', '.join(known)}", actual=", ".join(unknown))
    try:
        return Effort(**fields)
    except TypeError as error:
        raise ConfigError("effort", expected="numbers", actual=dict(fields)) from error


def _paths(given: Path | str | Sequence[Path | str] | None) -> tuple[Path, ...]:
    folders: Sequence[Path | str] = () if given is None else (given,) if isinstance(given, (str, Path)) else given
    return tuple(Path(folder) for folder in folders)


def _reusable(frames: Any) -> Any:
    """Returns the frames, an iterator as a list: they are gone through more than once."""
    if frames is None or isinstance(frames, (str, Path, Frame, np.ndarray, Sequence)):
        return frames
    if isinstance(frames, Iterable) and not isinstance(frames, Mapping):
        return list(frames)
    raise ConfigError("frames", expected="a folder, or an iterable of frames or arrays", actual=type(frames).__name__)
