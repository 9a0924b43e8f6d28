"""Check the inputs of a call against the manifest, and make zeros in their shape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import BadInputFormatError
from lineside_runtime.tensors import DYNAMIC, Array, TensorSpec


class InputCheck:
    """Names and checks each call's inputs: some engines read garbage where an input is missing or has another shape."""

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self._specs = specs

    def __call__(self, inputs: Array | Mapping[str, Array]) -> Mapping[str, Array]:
        """Returns the inputs by name.

        Args:
            inputs: Array by input name, or the array alone where the model has one input.

        Raises:
            BadInputFormatError: An input is missing, unknown, or has another shape or type than the manifest says.
        """
        if not isinstance(inputs, Mapping):
            if len(self._specs) != 1:
                raise BadInputFormatError(
                    "the model has several inputs", expected=self._described(), actual=type(inputs).__name__
                )
            inputs = {self._specs[0].name: inputs}
        if len(inputs) != len(self._specs) or any(spec.name not in inputs for spec in self._specs):
            raise BadInputFormatError("other inputs", expected=self._described(), actual=sorted(map(str, inputs)))
        for spec in self._specs:
            spec.check(inputs[spec.name])
        return inputs

    def _described(self) -> str:
        return "; ".join(spec.describe() for spec in self._specs)


def sample_inputs(manifest: Manifest) -> dict[str, Array]:
    """Returns zeros in the shape that one frame has: batch 1, height and width from the pre-processing."""
    stages = manifest.variants[0].stages
    sample = stages[0].sample if len(stages) == 1 else {}  # one alone: this is the bundle of a stage, see split/plan.py
    return {
        spec.name: np.zeros(sample.get(spec.name) or _concrete(spec, manifest), spec.dtype) for spec in manifest.inputs
    }


def _concrete(spec: TensorSpec, manifest: Manifest) -> tuple[int, ...]:
    side = manifest.preprocess.min_side
    height, width = manifest.preprocess.size or (side, side)
    sizes = {"H": height, "W": width}
    letters = spec.layout.ljust(len(spec.shape), "?")
    return tuple(
        sizes.get(letter, 1) if size == DYNAMIC else size for letter, size in zip(letters, spec.shape, strict=True)
    )
