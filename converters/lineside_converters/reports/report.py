"""``report.json``: how a bundle was made and what was measured, for people and programs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from lineside_converters.reports.report_parts import (
    Confusion,
    Disagreement,
    Hypervolume,
    LayerChoice,
    MetricChange,
    ReportStruct,
    SearchPoint,
    SensitivityCurve,
    VariantFigures,
)
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BundleFormatError

REPORT_NAME = "report.json"
SCHEMA = 3
"""Number of this format. 2 added all that `OptimizationReport` has behind ``training``, 3 the gate ``baseline``;
bundles with a lower one are read as they are."""

_TOOLS = ("lineside", "onnx", "onnxruntime", "numpy", "opencv-python-headless")


Positive = Annotated[float, msgspec.Meta(gt=0)]


class ModelFigures(ReportStruct, frozen=True, kw_only=True):
    """Measurements of one model; those of a report's two models are on the same frames.

    Attributes:
        latency_ms: Inference of one frame: mean over the frames of each frame's median.
        latency_p95_ms: 95th percentile over all timed calls.
        map50: Mean average precision at an overlap of 0.5; ``None`` if it was not measured.
        throughput_fps: Frames a second of a process of its own with a caller for each core; ``None`` if not measured.
        memory_bytes: Peak of a process of its own that loads and runs the model; ``None`` if not measured.
    """

    latency_ms: float
    latency_p95_ms: float
    size_bytes: int
    map50: float | None = None
    throughput_fps: float | None = None
    memory_bytes: int | None = None


class GateResult(ReportStruct, frozen=True, kw_only=True):
    """Result of one gate.

    Attributes:
        status: ``unproven`` where it could not be measured here; ``overridden`` where the caller let it through.
        value: What was measured; ``None`` if nothing was.
        detail: What value and limit mean, and on what they were measured.
    """

    name: Literal["parity", "accuracy", "speed", "baseline"]
    status: Literal["passed", "unproven", "overridden"]
    value: float | None
    limit: float
    detail: str


class CalibrationFacts(ReportStruct, frozen=True, kw_only=True):
    """Inputs that the INT8 ranges come from.

    Attributes:
        sha256: Over shape and content of every prepared input, in order.
        source: Where the frames came from.
        method: ``minmax``, ``entropy`` or ``percentile``.
    """

    frames: int
    sha256: str
    source: str
    method: str


class SourceFacts(ReportStruct, frozen=True, kw_only=True):
    """The model that the bundle was made of.

    Attributes:
        name: File or bundle name.
        sha256: Hash of the float model's file.
        size_bytes: Size of the float model's file.
    """

    name: str
    sha256: str
    size_bytes: int


class BuildMachine(ReportStruct, frozen=True, kw_only=True):
    """The machine that measured.

    Attributes:
        cpu: Model name of the processor.
        cores: Cores that this process may use.
        threads: Threads of one inference while timing.
        tools: Package to version.
    """

    cpu: str
    cores: int
    threads: int
    python: str
    tools: dict[str, str]


class OptimizationReport(ReportStruct, frozen=True, kw_only=True):
    """The content of ``report.json``.

    Attributes:
        model: ``name@version``.
        made_at: ISO 8601 time in UTC.
        source: The model that it was made of.
        timed_on: The device whose times they are, where an agent measured them; empty if they are the machine's.
        int8: Figures of the fastest variant, which is FP16 where that is faster than INT8 (the first of ``variants``);
            ``None`` where nothing was quantised.
        time_ratio: Share of the float model's time that the fastest variant takes: of paired calls, each frame's
            median, and of those the geometric mean; ``None`` in older reports.
        calibration: What the INT8 ranges were taken from.
        accuracy_on: The annotated frames of the accuracy figures; empty if accuracy was not measured.
        notes: What a reader has to know, such as what was not measured.
        training: Content of the training's own record, where there is one.
        metric: The task's metric before and after, with its interval; ``None`` if accuracy was not measured.
        layers: Precision of each layer, in the graph's order; empty where nothing was quantized.
        curves: Sensitivity to pruning, layer by layer.
        candidates: All that a search measured; `SearchPoint.front` marks the Pareto front.
        hypervolumes: Hypervolumes of each series of ``candidates``, against the same reference point.
        disagreements: Frames on which the two models say different things, the worst first.
        variants: What the bundle holds and what was left out, with the measured reasons.
    """

    schema: int = SCHEMA
    model: str
    made_at: str
    level: int
    recipe: str
    source: SourceFacts
    machine: BuildMachine
    timed_on: str = ""
    float: ModelFigures
    int8: ModelFigures | None = None
    time_ratio: Positive | None = None
    calibration: CalibrationFacts | None = None
    gates: tuple[GateResult, ...] = ()
    accuracy_on: str = ""
    notes: tuple[str, ...] = ()
    training: dict[str, Any] = msgspec.field(default_factory=dict)
    metric: MetricChange | None = None
    layers: tuple[LayerChoice, ...] = ()
    curves: tuple[SensitivityCurve, ...] = ()
    candidates: tuple[SearchPoint, ...] = ()
    hypervolumes: tuple[Hypervolume, ...] = ()
    confusion: Confusion | None = None
    disagreements: tuple[Disagreement, ...] = ()
    variants: tuple[VariantFigures, ...] = ()


def this_machine(threads: int) -> BuildMachine:
    """Describes this machine and its tools."""
    tools = {name: importlib.metadata.version(name) for name in _TOOLS}
    cores = len(os.sched_getaffinity(0))
    return BuildMachine(cpu=_cpu_name(), cores=cores, threads=threads, python=platform.python_version(), tools=tools)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def report_json(report: OptimizationReport) -> bytes:
    """Returns the content of ``report.json``."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1)


def read_report(folder: Path) -> OptimizationReport:
    """Reads the report of a bundle's folder.

    Raises:
        BundleFormatError: It is missing or of another format, such as a newer lineside's.
    """
    path = folder / REPORT_NAME
    try:
        data = path.read_bytes()
        schema = decode_json(data, type=_Numbered).schema
        if schema > SCHEMA:
            raise BundleFormatError(
                f"{path} is of a newer lineside",
                expected=f"schema {SCHEMA} at most",
                actual=schema,
                action="Update it.",
            )
        return decode_json(data, type=OptimizationReport)
    except (OSError, msgspec.DecodeError) as error:
        raise BundleFormatError(f"{path}: {error}") from error


class _Numbered(msgspec.Struct):
    schema: int
