"""`TensorSpec`: name, shape, type and layout of one input or output, and the check against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_runtime.errors import BadInputFormatError

DType = Literal[
    "float32",
    "float16",
    "uint8",
    "int8",
    "int32",
    "int64",
    "bool",
    "float64",
    "int16",
    "uint16",
    "uint32",
    "uint64",
    "string",
    "any",
]
Array = npt.NDArray[Any]

DYNAMIC = -1
"""A dimension that each call may choose, such as the batch."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one input or output of a model looks like.

    Attributes:
        name: Name in the model's graph.
        shape: One number a dimension; `DYNAMIC` (-1) where each call may choose.
        dtype: Numpy's name of the element type; ``string`` for texts (an array of ``str`` or ``object``), ``any`` for
            what is no array of these, such as an ONNX sequence: it isn't checked.
        layout: Letters of the dimensions, such as ``NCHW``; empty where there is no convention.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType = "float32"
    layout: str = ""

    def describe(self) -> str:
        """Returns for example ``image (N, 1, H, W) float32 NCHW``; letters stand for free dimensions."""
        letters = self.layout if len(self.layout) == len(self.shape) else "?" * len(self.shape)
        sizes = ", ".join(
            letter if size == DYNAMIC else str(size) for letter, size in zip(letters, self.shape, strict=True)
        )
        return f"{self.name} ({sizes}) {self.dtype} {self.layout}".rstrip()

    def check(self, array: object) -> None:
        """Checks that ``array`` fits.

        Args:
            array: Anything.

        Raises:
            BadInputFormatError: It has another type, number of dimensions or size.
        """
        if self.dtype == "any":
            return
        if not isinstance(array, np.ndarray):
            raise BadInputFormatError(
                f"input {self.name!r} is not an array", expected=self.describe(), actual=type(array).__name__
            )
        fits = (
            (array.dtype.kind in "OU" if self.dtype == "string" else array.dtype == self.dtype)
            and array.ndim == len(self.shape)
            and all(want in (DYNAMIC, have) for want, have in zip(self.shape, array.shape, strict=True))
        )
        if not fits:
            raise BadInputFormatError(
                f"input {self.name!r} does not fit", expected=self.describe(), actual=f"{array.shape} {array.dtype}"
            )


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
