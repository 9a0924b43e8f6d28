"""Harm of each layer to a model's outputs when it alone is INT8."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lineside_converters.cluster.tasks import TaskRunner
from lineside_converters.gates.checks import Feed
from lineside_converters.gates.loaded_models import execution_place, open_model
from lineside_converters.levels import CalibrationMethod
from lineside_converters.quantization.dynamic import quantize_products
from lineside_converters.quantization.plan import LayerHarm
from lineside_converters.quantization.static import quantize
from lineside_converters.targets import Target
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import GraphError
from lineside_runtime.precision import Precision
from lineside_runtime.tensors import Array

COMPARED_FEEDS = 8
"""Inputs that outputs are compared on."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SensitivitySweep:
    """Common inputs of the measurement of all layers, sent to each task of a cluster; without files.

    Attributes:
        clean: The float graph's file.
        layers: Names of all layers that can be INT8.
        method: Calibration; ``None`` for dynamic INT8.
        feeds: Calibration inputs; with ``ranges`` a few are enough.
        ranges: File of the ranges that were calibrated on all of them; ``None`` without one.
        target: Kind of INT8, and threads.
    """

    clean: bytes
    layers: tuple[str, ...]
    method: CalibrationMethod | None
    feeds: Sequence[Feed]
    ranges: bytes | None
    manifest: Manifest
    target: Target

    def measure(
        self, chosen: Sequence[str], tasks: TaskRunner, on_progress: Callable[[int, int], None]
    ) -> tuple[LayerHarm, ...]:
        """Returns the harm of chosen layers, the largest first; those that can't be INT8 alone are left out."""
        done = 0

        def count(*_: object) -> None:
            nonlocal done
            done += 1
            on_progress(done, len(chosen))

        found = tasks.map(partial(_harm_of, self, self._wanted()), chosen, on_done=count)
        return tuple(sorted((harm for harm in found if harm), key=lambda harm: (-harm.share, harm.node)))

    def _wanted(self) -> list[dict[str, Array]]:
        with tempfile.TemporaryDirectory(prefix="lineside-sensitivity-") as name:
            path = Path(name) / "clean.onnx"
            path.write_bytes(self.clean)
            return self.answers(path, "fp32")

    def answers(self, model: Path, precision: Precision) -> list[dict[str, Array]]:
        """Returns the outputs of a model file for the compared inputs."""
        place = execution_place("ort", "cpu")
        with open_model(model, place, self.manifest, precision=precision, threads=self.target.threads) as run:
            return [run(feed) for feed in self.feeds[:COMPARED_FEEDS]]

    def quantize_alone(self, layer: str, folder: Path) -> Path:
        """Writes the model with one INT8 layer into a folder.

        Raises:
            GraphError: It is a product of two activations, or its weight isn't constant.
        """
        clean, target, ranges = folder / "clean.onnx", folder / "alone.onnx", folder / "ranges.json"
        clean.write_bytes(self.clean)
        if self.method is None:
            others = [name for name in self.layers if name != layer]
            quantize_products(clean, target, exclude=others, table=False)
            return target
        if self.ranges is not None:
            ranges.write_bytes(self.ranges)
        quantize(
            clean,
            target,
            feeds=self.feeds,
            method=self.method,
            activation=self.target.activation,
            per_channel=self.target.per_channel,
            only=[layer],
            ranges=ranges if self.ranges is not None else None,
        )
        return target


def _harm_of(sweep: SensitivitySweep, wanted: Sequence[dict[str, Array]], layer: str) -> LayerHarm | None:
    with tempfile.TemporaryDirectory(prefix="lineside-sensitivity-") as folder:
        try:
            alone = sweep.quantize_alone(layer, Path(folder))
        except GraphError:
            return None
        return LayerHarm(node=layer, share=error_share(wanted, sweep.answers(alone, "int8")))


def error_share(wanted: Sequence[dict[str, Array]], found: Sequence[dict[str, Array]]) -> float:
    """Returns the power of the error of the worst output, as a share of the output's own about its mean."""
    worst = 0.0
    for name in wanted[0]:
        a = np.concatenate([one[name].astype(np.float64).ravel() for one in wanted])
        b = np.concatenate([one[name].astype(np.float64).ravel() for one in found])
        worst = max(worst, float(((a - b) ** 2).sum() / max(((a - a.mean()) ** 2).sum(), 1e-12)))
    return worst
