"""The inputs of a call: checked against the manifest, and zeros in their shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import BadInputFormatError
from lineside_runtime.tensors import DYNAMIC, Array, TensorSpec

_ARRAY = np.ndarray


class InputCheck:
    """Checks each call's inputs: some engines read garbage where an input is missing or has another shape.

    What was accepted last is remembered, so that a camera's next frame, which looks the same, costs two comparisons.
    """

    __slots__ = ("_accepted", "_specs", "_template")

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self._specs = specs
        self._template: tuple[str, Any, tuple[int, ...]] = ("", None, ())
        self._accepted: dict[str, tuple[Any, tuple[int, ...]]] = {}

    def __call__(self, inputs: Array | Mapping[str, Array]) -> Mapping[str, Array]:
        """Returns the inputs by name.

        Args:
            inputs: Array by input name, or the array alone where the model has one input.

        Raises:
            BadInputFormatError: An input is missing, unknown, or has another shape or type than the manifest says.
        """
        if type(inputs) is _ARRAY:
            name, dtype, shape = self._template
            if inputs.dtype is dtype and inputs.shape == shape:
                return {name: inputs}
        elif isinstance(inputs, Mapping):
            return self._by_name(inputs)
        return self._alone(inputs)

    def _alone(self, array: Any) -> Mapping[str, Array]:
        if len(self._specs) != 1:
            raise BadInputFormatError(
                "the model has several inputs", expected=self._described(), actual=type(array).__name__
            )
        spec = self._specs[0]
        spec.check(array)
        if isinstance(array, np.ndarray):
            self._template = (spec.name, array.dtype, array.shape)
        return {spec.name: array}

    def _by_name(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        specs, accepted = self._specs, self._accepted
        if len(inputs) != len(specs) or any(spec.name not in inputs for spec in specs):
            raise BadInputFormatError("other inputs", expected=self._described(), actual=sorted(map(str, inputs)))
        for spec in specs:
            array = inputs[spec.name]
            dtype, shape = accepted.get(spec.name, (None, ()))
            if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
                spec.check(array)
                if isinstance(array, np.ndarray):  # what a spec with `any` lets through may be none
                    accepted[spec.name] = (array.dtype, array.shape)
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
