"""An engine that computes nothing, to measure the cost of everything around an engine.

It returns zeros in the shapes of the manifest's outputs and reads no file, so it accepts every format. It serves a
bundle only if `Config.engines` names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lineside_runtime.backend import Backend, Executable, LoadOptions, Stage
from lineside_runtime.backends.common.options import refuse
from lineside_runtime.devices import Device
from lineside_runtime.errors import ConfigError, DeviceError, EngineError, LinesideError, NoDeviceError
from lineside_runtime.tensors import DYNAMIC, Array, InputCheck, TensorSpec


class NullBackend(Backend):
    """The engine."""

    name = "null"
    package = "lineside"
    formats = frozenset({"onnx", "openvino", "tflite", "ncnn", "mnn", "torch", "tensorrt", "hailo", "rknn", "imx500"})
    version = "1.0"

    def _probe(self) -> list[Device]:
        return [Device("cpu", name="nothing: answers zeros")]

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        if str(device) != "cpu:0":
            raise NoDeviceError("null has no such device", expected="cpu:0", actual=device)
        refuse(options, self.name, "cores", "operator_libraries", why="it computes nothing")
        if not options.inputs or not options.outputs:
            raise ConfigError(
                "null needs to be told the inputs and outputs: it reads no file",
                expected="LoadOptions.inputs and LoadOptions.outputs",
                action="Open the model as a bundle, with a Session.",
            )
        return NullExecutable(options.inputs, options.outputs)

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (MemoryError,)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        return EngineError(f"null {stage}: {error}")


class NullExecutable(Executable):
    """Returns zeros."""

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._check = InputCheck(inputs)
        self._inputs = inputs
        self._outputs = outputs
        self._open = True

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if not self._open:
            raise DeviceError("the executable is closed")
        arrays = self._check(inputs)
        sizes: dict[str, int] = {}
        for spec in self._inputs:
            sizes.update(zip(_letters(spec), arrays[spec.name].shape, strict=True))
        return {spec.name: np.zeros(_shape(spec, sizes), spec.dtype) for spec in self._outputs}

    def _close(self) -> None:
        self._open = False


def _letters(spec: TensorSpec) -> str:
    """Returns a letter for each dimension; where the manifest has none, the first is the batch."""
    return spec.layout if len(spec.layout) == len(spec.shape) else "N????????"[: len(spec.shape)]


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Returns a free dimension from the inputs' of the same letter; 1 if there is none."""
    known = {letter: size for letter, size in sizes.items() if letter != "?"}
    return tuple(
        known.get(letter, 1) if size == DYNAMIC else size
        for letter, size in zip(_letters(spec), spec.shape, strict=True)
    )
