"""Hailo: Hailo-8, 8L and 10H accelerators through HailoRT's ``InferModel`` interface.

Written from HailoRT's own Python source, versions 4.18 and 5, and from the vendor's examples:
``hailort/libhailort/bindings/python/platform/hailo_platform/pyhailort/pyhailort.py`` (``VDevice``, ``InferModel``,
``ConfiguredInferModel``) and ``hailort/libhailort/include/hailo/hailort.h`` (statuses) in
https://github.com/hailo-ai/hailort, and ``runtime/hailo-8/python/common/hailo_inference.py`` in
https://github.com/hailo-ai/Hailo-Application-Code-Examples. **Untested on hardware**; to test
it: ``lineside conformance hailo --model conv_int8=FILE.hef``.

A ``.hef`` is compiled for one kind of chip. Its names are the compiler's and not the model's, so that inputs and
outputs are found by what the file says of their origin, by their shape, or by their order (`pair_up`); the bundle's
golden output proves it. Images go in and out as the chip has them, channels last; ``NCHW`` is turned here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lineside_runtime.backend import Backend, Compatibility, Executable, LoadOptions, Stage
from lineside_runtime.backends.common.error_texts import device_error
from lineside_runtime.backends.common.options import refuse
from lineside_runtime.backends.common.streams import Stream, Tensor, pair_up
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    DriverMismatchError,
    EngineError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.system import accelerators, drivers
from lineside_runtime.tensors import Array

TIMEOUT_MS = 10_000
"""How long a call may take; the vendor's own default (``HAILO_DEFAULT_ASYNC_INFER_TIMEOUT_MS``)."""

GROUP = "SHARED"
"""Models of one process share the accelerator under this name; without one the first keeps it for itself."""

DRIVERS = ("hailo_pci", "hailo1x_pci")
"""Kernel modules of Hailo-8 and of Hailo-10 and 15."""

CHIPS = {"HAILO8_A0": "Hailo-8", "HAILO8": "Hailo-8", "HAILO8L": "Hailo-8L", "HAILO10H": "Hailo-10H"}
"""HailoRT's ``DeviceArchitecture``. On PCI a Hailo-8L has the number of a Hailo-8."""

STATUSES: dict[str, type[LinesideError]] = {
    "HAILO_OUT_OF_HOST_MEMORY": OutOfDeviceMemoryError,
    "HAILO_OUT_OF_FW_MEMORY": OutOfDeviceMemoryError,
    "HAILO_OUT_OF_HOST_CMA_MEMORY": OutOfDeviceMemoryError,
    "HAILO_OUT_OF_DESCRIPTORS": OutOfDeviceMemoryError,
    "HAILO_DEVICE_IN_USE": DeviceBusyError,
    "HAILO_OUT_OF_PHYSICAL_DEVICES": DeviceBusyError,
    "HAILO_QUEUE_IS_FULL": DeviceBusyError,
    "HAILO_INVALID_DRIVER_VERSION": DriverMismatchError,
    "HAILO_DRIVER_INVALID_IOCTL": DriverMismatchError,
    "HAILO_PCIE_DRIVER_NOT_INSTALLED": DriverMismatchError,
    "HAILO_DRIVER_NOT_INSTALLED": DriverMismatchError,
    "HAILO_UNSUPPORTED_FW_VERSION": DriverMismatchError,
    "HAILO_UNSUPPORTED_CONTROL_PROTOCOL_VERSION": DriverMismatchError,
    "HAILO_INVALID_SERVICE_VERSION": DriverMismatchError,
    "HAILO_INVALID_HEF": UnsupportedModelError,
    "HAILO_HEF_NOT_COMPATIBLE_WITH_DEVICE": UnsupportedModelError,
    "HAILO_HEF_NOT_SUPPORTED": UnsupportedModelError,
    "HAILO_INVALID_DEVICE_ARCHITECTURE": UnsupportedModelError,
    "HAILO_TIMEOUT": DeviceLostError,
    "HAILO_STREAM_ABORT": DeviceLostError,
    "HAILO_COMMUNICATION_CLOSED": DeviceLostError,
    "HAILO_DRIVER_FAIL": DeviceLostError,
    "HAILO_DRIVER_OPERATION_FAILED": DeviceLostError,
    "HAILO_FW_CONTROL_FAILURE": DeviceLostError,
    "HAILO_SHUTDOWN_EVENT_SIGNALED": DeviceLostError,
}
"""HailoRT's status names (``hailort.h``); the others are `EngineError`."""

ERRORS: dict[str, type[LinesideError]] = {
    "HailoRTTimeout": DeviceLostError,
    "HailoRTStreamAborted": DeviceLostError,
    "HailoRTStreamAbortedByUser": DeviceLostError,
    "HailoRTInvalidHEFException": UnsupportedModelError,
    "HailoRTHEFNotCompatibleWithDevice": UnsupportedModelError,
    "HailoRTPCIeDriverException": DeviceLostError,
    "HailoRTDriverOperationFailedException": DeviceLostError,
    "HailoRTFirmwareControlFailedException": DeviceLostError,
    "HailoCommunicationClosedException": DeviceLostError,
    "InvalidProtocolVersionException": DriverMismatchError,
    "HailoRTUnsupportedOpcodeException": DriverMismatchError,
    "HailoRTInvalidFrameException": EngineError,
    "HailoRTInvalidOperationException": EngineError,
    "HailoRTInvalidArgumentException": EngineError,
    "HailoRTNotFoundException": EngineError,
    "HailoRTEthException": DeviceLostError,
    "UdpRecvError": DeviceLostError,
    "HailoRTNetworkGroupNotActivatedException": EngineError,
    "HailoStatusInvalidValueException": EngineError,
    "HailoRTException": EngineError,
}
"""The exception classes of ``pyhailort.py``, 4.18 to 5; what their text says counts more."""


class HailoBackend(Backend):
    """HailoRT."""

    name = "hailo"
    package = "hailort"
    formats = frozenset({"hailo"})
    untested_kinds = frozenset({"npu"})

    def __init__(self, root: Path | str = "/") -> None:
        """Imports the vendor's package here, so that this file can be read where it isn't.

        Raises:
            ImportError: The package isn't installed.
        """
        import hailo_platform
        from hailo_platform.pyhailort import _pyhailort, pyhailort

        self._vendor: Any = hailo_platform
        self._errors = vendor_errors(pyhailort, _pyhailort)
        self._root = Path(root)
        self._chips: dict[str, str] = {}
        self._held: dict[str, tuple[Any, int]] = {}
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Version of ``hailo_platform``."""
        return str(self._vendor.__version__)

    def _probe(self) -> list[Device]:
        names = {one.where.split()[1]: one.name for one in accelerators.find(self._root) if "hailo" in one.engines}
        ids = [str(one) for one in self._vendor.Device.scan()]
        return [
            Device("npu", index, name=self._chip(one) or names.get(one, "Hailo"), handle=one)
            for index, one in enumerate(ids)
        ]

    def _chip(self, handle: str) -> str:
        """Returns the chip from the firmware; empty while it is not reachable, and the kernel's name is used."""
        if handle not in self._chips and handle not in self._held:
            with contextlib.suppress(*self._errors), self._vendor.Device(handle) as device:
                self._chips[handle] = chip_name(str(device.control.identify().device_architecture))
        return self._chips.get(handle, "")

    def _compatibility(self) -> Compatibility:
        driver = drivers.module_version(*DRIVERS, root=self._root)
        versions = {self.package: self.version, "driver": driver}
        return drivers.equal_fits(self.version, driver, versions=versions, product="HailoRT")

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        refuse(options, self.name, "operator_libraries")
        self._expect_here(device)
        with contextlib.ExitStack() as stack:
            virtual = self._hold(device.handle)
            stack.callback(self._let_go, device.handle)
            infer = virtual.create_infer_model(str(model))
            ins, outs = self._tensors(infer, options)
            return HailoExecutable(infer, ins, outs, stack)

    def _tensors(self, infer: Any, options: LoadOptions) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Returns the inputs and outputs, after telling HailoRT in which types they are wanted."""
        if any(stream.is_nms for stream in infer.outputs):
            raise UnsupportedModelError(
                "the .hef ends in Hailo's own non-maximum suppression",
                action="Compile it without nms_postprocess: lineside decodes the network's own outputs.",
            )
        types = self._vendor.FormatType
        ins = pair_up(_streams(infer.inputs, infer.hef), options.inputs)
        outs = pair_up(_streams(infer.outputs, infer.hef), options.outputs)
        for tensor in ins:
            if tensor.dtype not in ("uint8", "float32"):
                raise UnsupportedModelError(
                    f"hailo input {tensor.name!r}", expected="uint8 or float32", actual=tensor.dtype
                )
            infer.input(tensor.stream).set_format_type(types.UINT8 if tensor.dtype == "uint8" else types.FLOAT32)
        for tensor in outs:
            infer.output(tensor.stream).set_format_type(types.FLOAT32)
        return ins, outs

    def _hold(self, handle: str) -> Any:
        """Returns the accelerator as HailoRT shares it among the models of a process: one, with a scheduler."""
        with self._lock:
            virtual, users = self._held.get(handle, (None, 0))
            if virtual is None:
                params = self._vendor.VDevice.create_params()
                params.scheduling_algorithm = self._vendor.HailoSchedulingAlgorithm.ROUND_ROBIN
                params.group_id = GROUP
                virtual = self._vendor.VDevice(params, device_ids=[handle])
            self._held[handle] = (virtual, users + 1)
            return virtual

    def _let_go(self, handle: str) -> None:
        """Gives the accelerator back with its last model: to other processes, and to be opened anew if it was lost."""
        with self._lock:
            virtual, users = self._held.pop(handle)
            if users > 1:
                self._held[handle] = (virtual, users - 1)
                return
        virtual.release()

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return self._errors

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        return translate(type(error).__name__, self._words(error), stage)

    def _words(self, error: Exception) -> str:
        """Returns the text; some calls raise the bare status number."""
        text = str(error).strip()
        if text.isdigit():
            text = f"{text} ({self._vendor.pyhailort.pyhailort.get_status_message(int(text))})"
        return text or type(error).__name__


class HailoExecutable(Executable):
    """A configured model; calls from several threads queue up in HailoRT."""

    def __init__(
        self, infer: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], stack: contextlib.ExitStack
    ) -> None:
        """Configures the accelerator."""
        self._inputs = inputs
        self._outputs = outputs
        self._names = {tensor.name for tensor in inputs}
        self._infer: Any = infer
        self._configured: Any = stack.enter_context(infer.configure())
        self._stack = stack.pop_all()

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        configured = self._configured
        if configured is None:
            raise DeviceError("the executable is closed")
        if inputs.keys() != self._names:
            raise BadInputFormatError("other inputs", expected=sorted(self._names), actual=sorted(inputs))
        frames = [tensor.frames(inputs[tensor.name]) for tensor in self._inputs]
        if len({len(some) for some in frames}) != 1:
            raise BadInputFormatError("the inputs differ in their batch", actual=[len(some) for some in frames])
        answers = [{one.stream: np.empty(one.shape, np.float32) for one in self._outputs} for _ in frames[0]]
        requests = [
            configured.create_bindings(
                input_buffers={one.stream: some[number] for one, some in zip(self._inputs, frames, strict=True)},
                output_buffers=answer,
            )
            for number, answer in enumerate(answers)
        ]
        configured.wait_for_async_ready(timeout_ms=TIMEOUT_MS, frames_count=len(requests))
        configured.run(requests, TIMEOUT_MS)
        return {one.name: one.batch([answer[one.stream] for answer in answers]) for one in self._outputs}

    def _close(self) -> None:
        self._configured = self._infer = None
        self._stack.close()


def chip_name(architecture: str) -> str:
    """Returns a chip's name for HailoRT's name of its architecture; empty for one that is not known."""
    return CHIPS.get(architecture.rpartition(".")[2], "")


def _streams(streams: Sequence[Any], hef: Any) -> list[Stream]:
    return [
        Stream(
            name := str(stream.name),
            tuple(str(one) for one in hef.get_original_names_from_vstream_name(name)),
            tuple(int(size) for size in stream.shape),
        )
        for stream in streams
    ]


def vendor_errors(*modules: Any) -> tuple[type[Exception], ...]:
    """Returns every exception class of the vendor's modules, and what its Python layer raises."""
    own = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Exception) and "hailo" in value.__module__
    ]
    return (*dict.fromkeys(own), ValueError, TypeError, RuntimeError, MemoryError)


def translate(name: str, text: str, stage: Stage) -> LinesideError:
    """Maps the vendor's exception to an error."""
    kind: type[LinesideError] | None = OutOfDeviceMemoryError if name == "MemoryError" else None
    kind = kind or next((kind for status, kind in STATUSES.items() if status in text), None)
    if kind is None and stage == "run" and name in ("HailoRTInvalidArgumentException", "ValueError", "TypeError"):
        kind = BadInputFormatError
    kind = kind or ERRORS.get(name)
    if kind in (None, EngineError):
        kind = device_error(text) or EngineError
    return (kind or EngineError)(f"hailo {stage}: {text}")
