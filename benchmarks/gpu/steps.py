"""The steps: what each runs, and how long it may take."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

Figures = dict[str, Any]
Status = Literal["ok", "failed", "no GPU", "left out"]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What a step runs with.

    Attributes:
        gpus: How many there are; 0 for a step that only does what the CPU can.
        folder: Shared by the steps of one run.
    """

    gpus: int
    folder: Path


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a step's process writes before it ends.

    Attributes:
        status: ``no GPU`` after what can be done without one; ``left out`` with its reason.
        reason: Why it failed or was left out.
        figures: What was measured.
    """

    status: Status
    reason: str = ""
    figures: Figures = {}


class LeftOut(Exception):  # noqa: N818  # not an error
    """A requirement of the step is missing; the text names it."""


class StepError(Exception):
    """Part of a step failed; the other parts have figures."""

    def __init__(self, reason: str, figures: Figures) -> None:
        super().__init__(reason)
        self.figures = figures


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        limit_s: Its process is ended after so long.
        target: Module and function, which takes a `Case`.
        options: Further keyword arguments of the function.
    """

    name: str
    limit_s: float
    target: str
    options: tuple[tuple[str, str], ...] = ()

    def call(self, case: Case) -> Figures:
        """Runs it in this process."""
        module, _, function = self.target.partition(":")
        run: Callable[..., Figures] = getattr(importlib.import_module(module), function)
        return run(case, **dict(self.options))


_ENGINES = "benchmarks.gpu.engines"
_TRAINING = "benchmarks.gpu.training"
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"

STEPS = (
    Step("devices", 60, f"{_ENGINES}:devices"),
    Step("resnet50.forms", 180, f"{_ENGINES}:forms"),
    Step("resnet50.ort-cuda", 120, f"{_ENGINES}:latency", (("engine", "ort"), ("provider", CUDA))),
    Step("resnet50.ort-tensorrt", 240, f"{_ENGINES}:latency", (("engine", "ort"), ("provider", TENSORRT))),
    Step("resnet50.tensorrt", 240, f"{_ENGINES}:latency", (("engine", "tensorrt"),)),
    Step("resnet50.torch", 90, f"{_ENGINES}:latency", (("engine", "torch"),)),
    Step("device-cache.ort", 90, f"{_ENGINES}:device_cache", (("engine", "ort"),)),
    Step("device-cache.torch", 60, f"{_ENGINES}:device_cache", (("engine", "torch"),)),
    Step("nccl", 120, "benchmarks.gpu.collectives:nccl"),
    Step("train.gpus", 240, f"{_TRAINING}:train_gpus"),
    Step("optimizer.level3", 300, f"{_TRAINING}:optimizer"),
    Step("conformance.torch", 120, f"{_ENGINES}:conformance", (("engine", "torch"),)),
    Step("conformance.tensorrt", 180, f"{_ENGINES}:conformance", (("engine", "tensorrt"),)),
    Step("conformance.ncnn", 120, f"{_ENGINES}:conformance", (("engine", "ncnn"),)),
    Step("conformance.openvino", 120, f"{_ENGINES}:conformance", (("engine", "openvino"),)),
    Step("conformance.ort", 400, f"{_ENGINES}:conformance", (("engine", "ort"),)),
)
"""The last one takes longest: TensorRT's provider compiles each network anew for every check."""
