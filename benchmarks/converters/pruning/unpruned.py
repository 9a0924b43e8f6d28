"""The control of pruning: the whole network, trained by the same teacher on the same data for as many steps.

The pruned network is trained for longer than the shipped one. The cost of pruning itself is the difference to this
network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.converters.pruning.common import SEED, progress_printer
from benchmarks.converters.pruning.speeds import PRUNED
from lineside_converters.distillation.distill import open_distillation
from lineside_converters.distillation.trainer import train_student
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import FLOAT_CONVS
from lineside_converters.options import Effort
from lineside_converters.pruning.pipeline import COSTING_FEEDS, distillation_settings
from lineside_converters.pruning.torch_graph import close_network
from lineside_converters.quantization.static import first_convs, quantize
from lineside_runtime.precision import Precision

FLOAT, INT8 = "unpruned_taught float in ort", "unpruned_taught int8 in ort"


@dataclass(frozen=True, slots=True)
class Unpruned:
    """The whole network after its training.

    Attributes:
        forms: By name a file, its engine and its precision, as `speeds.speedups` takes them.
        curve: The figures on what is kept aside at each evaluation.
    """

    forms: Mapping[str, tuple[Path, str, Precision]]
    steps: int
    curve: list[dict[str, float]]


def train_control(model: Path, data: Sequence[Path], folder: Path, *, effort: Effort, steps: int) -> Unpruned:
    """Trains the whole network. A training that was ended goes on; a finished one is read.

    Args:
        model: The float model that was pruned.
        data: Training data of the pruned network.
        folder: Receives checkpoints and files.
        effort: Of the pruned network.
        steps: Of the pruned network's training; rounded to whole passes over the data.
    """
    setup = open_distillation(model, data, batch=effort.batch, seed=SEED)
    epochs = max(1, round(steps / setup.objective.epoch_steps))
    network, count = setup.network.copy(), progress_printer()
    curve = train_student(
        network.module,
        setup.teacher,
        setup.objective,
        setup.distillation_loss,
        settings=distillation_settings(dataclasses.replace(effort, epochs=epochs, minutes=None), SEED),
        out=folder,
        on_progress=lambda at: count("unpruned", at.step + 1, at.steps),
    )
    float_file, clean, int8 = (folder / f"{name}.onnx" for name in ("float", "clean", "int8"))
    close_network(network, float_file, setup.frames)
    clean_graph(float_file, clean)
    feeds = [{network.input_name: batch[:1].numpy()} for batch in setup.objective.some(COSTING_FEEDS)]
    exclude = first_convs(onnx.load(clean), FLOAT_CONVS[setup.manifest.task])
    quantize(clean, int8, feeds=feeds, exclude=exclude)
    return Unpruned(
        {FLOAT: (clean, "ort", "fp32"), INT8: (int8, "ort", "int8")}, epochs * setup.objective.epoch_steps, curve
    )


def control_of(form: str) -> str:
    """Returns the control of a form of the pruned network."""
    return FLOAT if form == PRUNED else INT8


def steps_of(pruning: Mapping[str, Any]) -> int:
    """Returns how many steps a pruned network was trained, from the report of its pruning."""
    return int(pruning["curve"][-1]["step"])
