"""An engine of a third party: ONNX Runtime on a device that can be pulled out in the middle of a call.

Pulling it sets the terminate flag of every call that runs, so that ONNX Runtime itself breaks off between two operators
and raises; later calls and loads are refused until it is plugged in again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from lineside_runtime.backend import Backend, Executable, LoadOptions, Stage
from lineside_runtime.backends.ort.backend import OrtBackend
from lineside_runtime.devices import Device
from lineside_runtime.errors import DeviceLostError, LinesideError
from lineside_runtime.tensors import Array


class PulledError(Exception):
    """The device isn't there."""


class Plug:
    """Where the device is plugged in."""

    def __init__(self) -> None:
        self.out = False
        self.running: set[Any] = set()

    def pull(self) -> None:
        """Removes the device while calls run on it."""
        self.out = True
        for options in list(self.running):
            options.terminate = True


plug = Plug()


class PulledBackend(Backend):
    """ONNX Runtime on that device."""

    name = "pulled"
    package = "onnxruntime"
    formats = frozenset({"onnx"})
    version = onnxruntime.__version__

    def _probe(self) -> list[Device]:
        return [Device("cpu", name="ONNX Runtime, which can be pulled", handle="CPUExecutionProvider")]

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        if plug.out:
            raise PulledError("load")
        made = onnxruntime.SessionOptions()
        made.intra_op_num_threads = options.threads or 0
        made.inter_op_num_threads = 1
        made.log_severity_level = 4
        return PulledExecutable(onnxruntime.InferenceSession(str(model), made, providers=[device.handle]))

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (PulledError, *OrtBackend()._vendor_errors())

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        return DeviceLostError(f"pulled {stage}: {error}")


class PulledExecutable(Executable):
    """A session whose calls can be broken off."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        plug.running.add(options)
        try:
            if plug.out:
                raise PulledError("run")
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs), options), strict=True))
        finally:
            plug.running.discard(options)

    def _close(self) -> None:
        self._session = None
