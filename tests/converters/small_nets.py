"""Small networks and objectives for the tests of pruning, distillation and search."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lineside_converters.candidate import SourceModel
from lineside_converters.context import Context
from lineside_converters.data.calibration_data import ModelInputs
from lineside_converters.levels import LevelOptions
from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.progress import ProgressReporter
from lineside_converters.targets import Target
from lineside_converters.tasks import task_of
from lineside_converters.training.initial_weights import PRIOR_BIAS
from lineside_converters.training.objective import Done, Outputs, TrainingObjective, as_tuple
from lineside_converters.work_folder import WorkFolder
from lineside_models.networks.detector import REG_BINS, STRIDES
from lineside_runtime.bundle import Manifest, Variant
from lineside_runtime.tensors import TensorSpec

SIDE = 16


class Blocks(nn.Module):
    """A classifier with a residual and a depthwise block, of which every kind of group is seen."""

    def __init__(self, classes: int = 3, width: int = 16, seed: int = 0, kernel: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.deep = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, kernel, 1, kernel // 2, groups=2 * width),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.back = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        at = self.stem(image)
        at = F.relu(at + self.back(self.deep(self.wide(at))))
        return self.head(at.mean((2, 3)))


def bars(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of upright, lying and slanting bars in noise, ``(N, 1, 16, 16)``, and which it is."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    y, x = np.mgrid[:SIDE, :SIDE]
    along = np.stack([x, y, (x + y) / 1.4])[labels]
    phase = rng.uniform(0, 6.3, (count, 1, 1))
    images = np.sin(along * 1.1 + phase) + rng.normal(0, 0.6, (count, SIDE, SIDE))
    return torch.from_numpy(images[:, None].astype(np.float32)), torch.from_numpy(labels)


class BarObjective(TrainingObjective[tuple[Tensor, Tensor]]):
    """Bars, labelled by direction."""

    def __init__(self, *, steps: int = 12, batch: int = 32) -> None:
        self.epoch_steps, self._batch = steps, batch
        self.facts = {"frames": steps * batch}
        self.held = bars(300, 999)

    def batches(self, first_step: int, done: Done) -> Generator[tuple[Tensor, Tensor], None, None]:
        step = first_step
        while True:
            yield bars(self._batch, step)
            step += 1

    def images(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return batch[0]

    def true_loss(self, outputs: Outputs, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(outputs[0], batch[1])

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        found = as_tuple(model(self.held[0]))[0].argmax(1)
        return {"top1": float((found == self.held[1]).float().mean())}


def write(module: nn.Module, path: Path, outputs: tuple[str, ...] = ("logits",)) -> Path:
    """Exports a network of these inputs, its batch norms folded as exports have them."""
    axes = {name: {0: "batch"} for name in ("image", *outputs)}
    example = bars(2, 5)[0]
    export_onnx(module, path, example=example, input_name="image", output_names=outputs, dynamic_axes=axes)
    return path


def context_of(path: Path, facts: Any, level: LevelOptions, target: Target) -> Context:
    """Returns the context of a network of this file, calibrated on bars."""
    manifest = Manifest(
        name="bars",
        version="1.0.0",
        created_at="2026-11-24T00:00:00Z",
        task="classification",
        labels=facts.labels,
        inputs=(TensorSpec(name="image", shape=(-1, 1, SIDE, SIDE), layout="NCHW"),),
        outputs=(TensorSpec(name="logits", shape=(-1, len(facts.labels))),),
        preprocess=facts.preprocess,
        postprocess=facts.postprocess,
        variants=(Variant(name="onnx-fp32", format="onnx", file="onnx-fp32/model.onnx", level=0, precision="fp32"),),
    )
    inputs = ModelInputs(
        calibration=tuple({"image": image[None].numpy()} for image in bars(12, 3)[0]),
        calibration_source="bars",
        tuning=(),
        evaluation=(),
        evaluation_source="",
        simulated_truth=False,
    )
    return Context(
        source=SourceModel.of(path, manifest), manifest=manifest, inputs=inputs, level=level, target=target,
        task=task_of(manifest), work=WorkFolder(path.parent, lambda _: None),
        progress=ProgressReporter(lambda _: None),
    )  # fmt: skip


class SmallDetector(nn.Module):
    """A detector of two types with the outputs of lineside's, of a few convolutions with random weights."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (1, channels, 2 * channels, 4 * channels, 4 * channels, 4 * channels)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        )
        self.scores = nn.ModuleList(nn.Conv2d(4 * channels, 2, 1) for _ in STRIDES)
        self.boxes = nn.ModuleList(nn.Conv2d(4 * channels, 4 * REG_BINS, 1) for _ in STRIDES)
        for head in self.scores:
            nn.init.constant_(head.bias, PRIOR_BIAS)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for layer in self.layers:
            image = layer(image)
            maps.append(image)
        seen = maps[-len(STRIDES) :]
        heads = (*self.scores, *self.boxes)
        return tuple(head(each) for head, each in zip(heads, (*seen, *seen), strict=True))
