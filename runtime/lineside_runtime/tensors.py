"""Name, shape, type and layout of inputs and outputs, and the check of arrays against them."""

# Annotations are evaluated: see `bundle/manifest.py`.

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np

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
Array = np.ndarray[Any, np.dtype[Any]]

DYNAMIC = -1
"""A dimension that each call may choose, such as the batch."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Name, shape, type and layout of an input or output.

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
    """Names and checks each call's inputs: some engines read garbage where an input is missing or has another shape.

    The type and shape that were accepted last are remembered, since a camera's frames are alike. Between two runs of a
    network, when the code is in no cache of the processor, a whole check takes 46 µs of a call of 2.7 ms.
    """

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self._specs = specs
        self._accepted: dict[str, tuple[Any, tuple[int, ...]]] = {}

    def __call__(self, inputs: Array | Mapping[str, Array]) -> Mapping[str, Array]:
        """Returns the inputs by name.

        Args:
            inputs: Array by input name, or the array alone where the model has one input.

        Raises:
            BadInputFormatError: An input is missing, unknown, or has another shape or type than the manifest says.
        """
        specs, accepted = self._specs, self._accepted
        if type(inputs) is np.ndarray or not isinstance(inputs, Mapping):
            if len(specs) != 1:
                raise BadInputFormatError(
                    "the model has several inputs", expected=self._described(), actual=type(inputs).__name__
                )
            inputs = {specs[0].name: inputs}
        if len(inputs) != len(specs):
            raise BadInputFormatError("other inputs", expected=self._described(), actual=sorted(map(str, inputs)))
        for spec in specs:
            array = inputs.get(spec.name)
            dtype, shape = accepted.get(spec.name, (None, ()))
            if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
                self._check(spec, inputs)
        return inputs

    def _check(self, spec: TensorSpec, inputs: Mapping[str, Array]) -> None:
        if spec.name not in inputs:
            raise BadInputFormatError("other inputs", expected=self._described(), actual=sorted(map(str, inputs)))
        array = inputs[spec.name]
        spec.check(array)
        if isinstance(array, np.ndarray):  # what a spec with `any` lets through may be none
            self._accepted[spec.name] = (array.dtype, array.shape)

    def _described(self) -> str:
        return "; ".join(spec.describe() for spec in self._specs)
