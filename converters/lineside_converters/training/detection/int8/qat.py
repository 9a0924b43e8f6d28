"""Quantisation-aware fine-tuning of a detector that loses too much as INT8."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lineside_converters.levels import FLOAT_CONVS
from lineside_converters.pruning.torch_graph import TupleOutputs, answering
from lineside_converters.training import checkpoints
from lineside_converters.training.data.batches import TrainingBatch
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.data import DetectionData
from lineside_converters.training.detection.int8.accuracy import held_map50, quantise
from lineside_converters.training.detection.int8.fake_quantization import fake_quantise, plain_again
from lineside_converters.training.detection.objective import DetectionObjective
from lineside_converters.training.loop import (
    BEST,
    CHECKPOINT,
    TrainingPlan,
    fit,
    mean_figure,
    parameter_groups,
    start_run,
)
from lineside_converters.training.progress import OnProgress
from lineside_runtime.backends.pytorch_graph import read

ENOUGH = 0.005
"""Loss of mAP@0.5, mean over the data sets, above which the network is fine-tuned."""

RATE = 0.05
"""Of the learning rate of the training."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QatResult:
    """Effect of fine-tuning: mAP@0.5 on the held-out share, by data set.

    Attributes:
        float_before: Of the float network.
        int8_before: Of its INT8 form.
        float_after: Of the float network after fine-tuning; empty where there was none.
        int8_after: Of its INT8 form.
        kept: Whether the fine-tuned weights are the run's result: where INT8 is better with them than without.
        model: The fine-tuned network, plain; ``None`` where it isn't kept.
    """

    float_before: dict[str, float]
    int8_before: dict[str, float]
    float_after: dict[str, float] = dataclasses.field(default_factory=dict)
    int8_after: dict[str, float] = dataclasses.field(default_factory=dict)
    kept: bool = False
    model: nn.Module | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the figures."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "model"}


def fine_tune_int8(
    config: DetectorConfig,
    data: DetectionData,
    objective: DetectionObjective,
    source: Path,
    *,
    export: Callable[[nn.Module, Path], float],
    on_progress: OnProgress,
) -> QatResult:
    """Measures the accuracy lost as INT8, and fine-tunes the network if that is too much.

    Args:
        source: The float ONNX file.
        export: Writes the network as ONNX.
        on_progress: Called after every step.

    Raises:
        TrainingError: The loss is not finite.
    """
    folder = config.out / "qat"
    int8 = quantise(source, folder / "before", data)
    before = QatResult(float_before=held_map50(source, data), int8_before=held_map50(int8, data))
    if mean_figure(before.float_before) - mean_figure(before.int8_before) <= ENOUGH:
        return before
    model = _fine_tuned(config, objective, folder, on_progress)
    export(model, folder / "float.onnx")
    int8 = quantise(folder / "float.onnx", folder / "after", data)
    after = held_map50(int8, data)
    kept = mean_figure(after) > mean_figure(before.int8_before)
    return dataclasses.replace(
        before,
        float_after=held_map50(folder / "float.onnx", data),
        int8_after=after,
        kept=kept,
        model=model if kept else None,
    )


def _fine_tuned(
    config: DetectorConfig, objective: DetectionObjective, folder: Path, on_progress: OnProgress
) -> nn.Module:
    """Trains with rounding convolutions, and returns the network without them."""
    module = read(folder / "before" / "clean.onnx").module.requires_grad_(True)
    names = fake_quantise(module, floats=FLOAT_CONVS["detection"], answering=answering(module))
    model = TupleOutputs(module)
    resumed = config.resume and (folder / CHECKPOINT).exists()
    groups = parameter_groups(model, lambda _: config.learning_rate * RATE)
    run = start_run(model, groups, resumed=checkpoints.load(folder / CHECKPOINT) if resumed else None)
    plan = TrainingPlan(
        out=folder,
        epochs=config.qat_epochs,
        epoch_steps=objective.epoch_steps,
        warm_up_steps=objective.epoch_steps // 2,
        figure="mAP@0.5 as if INT8,",
        settings={"qat": True},
    )

    def loss(network: nn.Module, batch: TrainingBatch) -> Tensor:
        return objective.true_loss(network(batch.images), batch)

    fit(run, plan, batches=objective.late_batches, loss=loss, evaluate=objective.evaluate, on_progress=on_progress)
    model.load_state_dict(checkpoints.load(folder / BEST))
    plain_again(module, names)
    return model.eval()
