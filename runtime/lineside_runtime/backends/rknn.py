"""RKNN: the NPU of Rockchip's processors, through ``rknn-toolkit-lite2``.

Written from the vendor's documentation and the source of its package (2.5.0, ``rknnlite/api/rknn_lite.py``):
"Rockchip RKNPU API Reference, RKNN Toolkit Lite2" in https://github.com/airockchip/rknn-toolkit2/tree/master/doc, and
its examples in ``rknn-toolkit-lite2/examples``. **Untested on hardware**; `lineside conformance rknn` tests it.
What can be proven without one is: `tests/system/test_rknn_simulator.py` runs `RknnExecutable` on the vendor's own
simulator for x86, with a file that the vendor's converter wrote.

A ``.rknn`` file belongs to one family of processors. It takes float arrays as the bundle's pre-processing makes them,
so it must be converted without ``mean_values`` and ``std_values``; its outputs are always float32.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lineside_runtime.backend import Backend, Compatibility, Executable, LoadOptions, Stage
from lineside_runtime.backends.common.error_texts import device_error
from lineside_runtime.backends.common.options import refuse
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceError,
    DeviceLostError,
    DriverMismatchError,
    EngineError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.logs import log
from lineside_runtime.system import accelerators, drivers
from lineside_runtime.tensors import Array, TensorSpec

FAMILIES = {"rk3568": "rk3566", "rk3588s": "rk3588"}
"""Processors that run the files of another's name."""

CORES = {"rk3588": ("NPU_CORE_0", "NPU_CORE_1", "NPU_CORE_2"), "rk3576": ("NPU_CORE_0", "NPU_CORE_1")}
"""Families with several NPU cores, and the names of the masks that choose one (``RKNNLite.init_runtime``)."""

FAMILIES_KNOWN = frozenset({"rk3562", "rk3566", "rk3576", "rk3588"})
"""What ``rknnlite/config/cpu_npu_mapper.yml`` knows and a Linux of 64 bits runs on."""

CODES: dict[str, type[LinesideError]] = {
    "RKNN_ERR_TIMEOUT": DeviceLostError,
    "RKNN_ERR_DEVICE_UNAVAILABLE": DeviceLostError,
    "RKNN_ERR_MALLOC_FAIL": OutOfDeviceMemoryError,
    "RKNN_ERR_PARAM_INVALID": EngineError,
    "RKNN_ERR_MODEL_INVALID": UnsupportedModelError,
    "RKNN_ERR_CTX_INVALID": EngineError,
    "RKNN_ERR_INPUT_INVALID": BadInputFormatError,
    "RKNN_ERR_OUTPUT_INVALID": EngineError,
    "RKNN_ERR_DEVICE_UNMATCH": DriverMismatchError,
    "RKNN_ERR_INCOMPATILE_PRE_COMPILE_MODEL": DriverMismatchError,
    "RKNN_ERR_INCOMPATILE_OPTIMIZATION_LEVEL_VERSION": DriverMismatchError,
    "RKNN_ERR_TARGET_PLATFORM_UNMATCH": UnsupportedModelError,
    "Invalid RKNN model version": DriverMismatchError,
    "RKNN_ERR_FAIL": EngineError,
}
"""What its codes mean: those of ``rknpu2/runtime/Linux/librknn_api/include/rknn_api.h``, and one line of its log."""


TYPES = ("float32", "float16", "int16", "int8", "uint8")
"""The types of input that ``RKNNLite.inference`` takes."""

_LOOK = "The vendor's own lines in the log say more."
_MAGIC = b"RKNN"
_HEADER_BYTES = 64


class RknnBackend(Backend):
    """Rockchip's NPU."""

    name = "rknn"
    package = "rknn-toolkit-lite2"
    formats = frozenset({"rknn"})
    untested_kinds = frozenset({"npu"})

    def __init__(self, root: Path | str = "/") -> None:
        """Imports the vendor's package here, so that this file can be read where it isn't.

        Args:
            root: Where ``proc`` and ``sys`` are.

        Raises:
            ImportError: The package isn't installed.
        """
        from rknnlite.api import RKNNLite

        self._vendor: Any = RKNNLite
        self._root = Path(root)

    @property
    def version(self) -> str:
        """Version of ``rknn-toolkit-lite2``."""
        return importlib.metadata.version(self.package)

    def _probe(self) -> list[Device]:
        return npu_devices(self._root)

    def _compatibility(self) -> Compatibility:
        return npu_compatibility(self._root, {self.package: self.version})

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        refuse(options, self.name, "operator_libraries")
        self._expect_here(device)
        facts = read_rknn(model)
        check_family(facts, family(self._root))
        runtime = self._vendor(verbose=False)
        runtime.rknn_log = reasons = Reasons()
        if runtime.load_rknn(str(model)) != 0:
            raise translate(reasons.text or "the file can't be read", "load")
        if runtime.init_runtime(core_mask=getattr(self._vendor, device.handle)) != 0:
            runtime.release()
            raise self._init_error(facts, reasons.text)
        return RknnExecutable(runtime, facts, reasons, options.inputs)

    def _init_error(self, facts: RknnFacts, reason: str) -> LinesideError:
        library = drivers.text_version("librknnrt", "librknnrt version: ", root=self._root)
        hint = f"Converted by {facts.toolkit or 'an unknown version'}, librknnrt here is {library or 'unknown'}: "
        return translate(reason or "init_runtime failed", "load", hint + "the library must not be older.")

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (Exception,)  # it raises bare ones, and none of its own

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        return translate(str(error).strip() or type(error).__name__, stage)


class Reasons:
    """Stands in for the log of ``RKNNLite``, which catches its own exceptions and only prints them."""

    def __init__(self) -> None:
        self.text = ""

    def e(self, text: object, *_: object) -> None:
        """Keeps the messages since the last `forget`, as the exception comes last."""
        self.text = f"{self.text}\n{text}".strip()
        log.debug("rknn: %s", text)

    def d(self, text: object, *_: object) -> None:
        """Passes on messages that are no errors."""
        log.debug("rknn: %s", text)

    i = w = p = d

    def forget(self) -> None:
        """Deletes the messages."""
        self.text = ""


class RknnExecutable(Executable):
    """A model on the NPU.

    It is one context of the vendor's, whose calls are not to be mixed: they wait for each other.
    """

    def __init__(self, runtime: Any, facts: RknnFacts, reasons: Reasons, specs: Sequence[TensorSpec] = ()) -> None:
        """Takes over a runtime that is ready.

        Args:
            runtime: An ``RKNNLite``, or on a PC an ``RKNN``: their ``inference`` is the same.
            facts: Of the model that it holds.
            reasons: Where the runtime says why it gives no answer.
            specs: Of the manifest's inputs: the file doesn't tell their types, and the runtime takes any.
        """
        self._runtime = runtime
        self._reasons = reasons
        self._facts = facts
        self._inputs = [name for name, _ in facts.inputs]
        self._outputs = [name for name, _ in facts.outputs]
        self._formats = ["nchw" for _ in facts.inputs]  # for all that isn't an image it means: as it is
        types = {spec.name: (spec.dtype,) for spec in specs}
        self._types = {name: types.get(name, TYPES) for name in self._inputs}
        self._lock = threading.Lock()

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs.keys() != set(self._inputs):  # it takes what comes first, and ignores the rest
            raise BadInputFormatError("other inputs", expected=self._inputs, actual=sorted(inputs))
        for name, shape in self._facts.inputs:
            if not self._facts.dynamic and inputs[name].shape != shape:
                raise BadInputFormatError(f"input {name!r} does not fit", expected=shape, actual=inputs[name].shape)
            if inputs[name].dtype.name not in self._types[name]:
                raise BadInputFormatError(f"input {name!r}", expected=self._types[name], actual=inputs[name].dtype)
        arrays = [np.ascontiguousarray(inputs[name]) for name in self._inputs]
        with self._lock:
            if self._runtime is None:
                raise DeviceError("the executable is closed")
            self._reasons.forget()
            outputs = self._runtime.inference(inputs=arrays, data_format=self._formats)
            reason = self._reasons.text
        if outputs is None:
            raise translate(reason or "no answer", "run")
        return dict(zip(self._outputs, outputs, strict=True))

    def _close(self) -> None:
        with self._lock:
            if self._runtime is not None:
                self._runtime.release()
            self._runtime = None


@dataclasses.dataclass(frozen=True, slots=True)
class RknnFacts:
    """Metadata of a ``.rknn`` file.

    Attributes:
        inputs: Name and shape of each input, in the order in which the runtime takes them.
        outputs: Name and shape of each output, in the order in which the runtime gives them.
        platforms: The processors that it is compiled for, such as ``rk3588``.
        toolkit: Version of the converter.
        dynamic: Whether it takes several shapes.
    """

    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    platforms: tuple[str, ...]
    toolkit: str
    dynamic: bool = False


def read_rknn(path: Path) -> RknnFacts:
    """Reads what the converter wrote about the model.

    The runtime's Python interface has no names, only positions. They stand in a JSON block behind the compiled graph:
    a header of 64 bytes (``RKNN``, version, size of the graph), the graph, the block's size, the block. The vendor
    doesn't document it; found in files of version 6, which its converter 2.x writes.

    Raises:
        UnsupportedModelError: It is no ``.rknn`` file, or of another version.
    """
    try:
        data = path.read_bytes()
        if data[:4] != _MAGIC:
            raise UnsupportedModelError(f"{path} is no .rknn file", expected=_MAGIC, actual=data[:4])
        end = _HEADER_BYTES + struct.unpack_from("<Q", data, 16)[0]
        size = struct.unpack_from("<Q", data, end)[0]
        facts = json.loads(data[end + 8 : end + 8 + size].rstrip(b"\0"))
        return _facts(facts, dynamic=data.find(b"dynamic_shape\0", 0, end) >= 0)
    except (struct.error, ValueError, OverflowError, KeyError, TypeError, OSError) as error:
        raise UnsupportedModelError(f"{path}: its description can't be read: {error!r}") from error


def _facts(facts: Mapping[str, Any], *, dynamic: bool) -> RknnFacts:
    tensors = {tensor["tensor_id"]: tensor for tensor in facts["norm_tensor"]}
    sides: dict[str, dict[int, tuple[str, tuple[int, ...]]]] = {"input": {}, "output": {}}
    for edge in facts["graph"]:
        if edge["right"] == "norm_tensor":
            tensor = tensors[edge["right_tensor_id"]]
            sides[edge["left"]][edge["left_tensor_id"]] = (tensor["url"], tuple(tensor["size"]))
    return RknnFacts(
        inputs=tuple(value for _, value in sorted(sides["input"].items())),
        outputs=tuple(value for _, value in sorted(sides["output"].items())),
        platforms=tuple(facts.get("target_platform", ())),
        toolkit=str(facts.get("version", "")),
        dynamic=dynamic,
    )


def family(root: Path | str = "/") -> str:
    """Returns the family of this machine's processor, such as ``rk3588``; empty if it is none of Rockchip's."""
    for name in accelerators.compatible(root):
        maker, _, chip = name.partition(",")
        if maker == "rockchip" and FAMILIES.get(chip, chip) in FAMILIES_KNOWN:
            return FAMILIES.get(chip, chip)
    return ""


def npu_devices(root: Path | str = "/") -> list[Device]:
    """Returns the NPU's cores; each is a device of its own, so that several calls can share them out.

    Raises:
        DriverMismatchError: The kernel has another driver, or the runtime's library is missing.
    """
    chip = family(root)
    if not chip:
        return []
    held = next((one.driver for one in accelerators.find(root) if "rknn" in one.engines), "")
    if held and held.upper() != "RKNPU":
        raise DriverMismatchError("the NPU is held by another driver", expected="rknpu", actual=held)
    if drivers.library_file("librknnrt", root=root) is None:
        raise DriverMismatchError(
            "the runtime's library is missing",
            expected="/usr/lib/librknnrt.so",
            action="Copy it from the vendor's repository rknn-toolkit2, folder rknpu2/runtime/Linux/librknn_api.",
        )
    masks = CORES.get(chip, ("NPU_CORE_AUTO",))
    return [Device("npu", index, name=f"{chip.upper()} {mask}", handle=mask) for index, mask in enumerate(masks)]


def npu_compatibility(root: Path | str, versions: Mapping[str, str]) -> Compatibility:
    """Returns the versions of driver and library; the vendor publishes no table of what fits."""
    driver, library = drivers.rknpu_driver(root), drivers.text_version("librknnrt", "librknnrt version: ", root=root)
    found = {**versions, "rknpu driver": driver, "librknnrt": library}
    if not library:
        return Compatibility(found, False, "librknnrt.so isn't there: copy it from the vendor's rknn-toolkit2")
    if not driver:
        return Compatibility(found, None, "the driver's version can't be read: root alone may, or it isn't there")
    return Compatibility(
        found, None, "no table says which driver fits; librknnrt must not be older than a file's converter"
    )


def check_family(facts: RknnFacts, chip: str) -> None:
    """Checks that a file is compiled for this processor.

    Raises:
        UnsupportedModelError: It is for another one.
    """
    meant = {FAMILIES.get(name, name) for name in facts.platforms}
    if chip not in meant:
        raise UnsupportedModelError(
            "the model is compiled for another processor",
            expected=chip or "a Rockchip processor",
            actual=sorted(meant),
            action=f"Convert it with target_platform={chip!r}." if chip else None,
        )


def translate(text: str, stage: Stage, hint: str = "") -> LinesideError:
    """Maps the vendor's message to an error."""
    kind = next((kind for mark, kind in CODES.items() if mark in text), None) or device_error(text) or EngineError
    return kind(f"rknn {stage}: {text.strip().splitlines()[-1]}", action=hint or _LOOK)
