"""An engine that computes the suite's networks with numpy: rightly, and wrongly in each way that is looked for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lineside_runtime.backend import Backend, Compatibility, Executable, LoadOptions, OperatorTime, Stage
from lineside_runtime.conformance import ConformanceReport, run, subject
from lineside_runtime.conformance.checks import loading, options
from lineside_runtime.conformance.networks import NETWORKS, ConformanceNetwork
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    ConfigError,
    DeviceError,
    EngineError,
    LinesideError,
    NoDeviceError,
    UnsupportedModelError,
)
from lineside_runtime.tensors import DYNAMIC, Array

NETWORK = {network.name: network for network in NETWORKS}
CONTENT = "a network of the oracle's: {name}\n"
leaked: list[bytes] = []


def write_models(folder: Path) -> Path:
    folder.mkdir()
    for name in NETWORK:
        (folder / f"{name}.oracle").write_text(CONTENT.format(name=name))
    return folder


class VendorError(Exception):
    pass


class UndeclaredError(Exception):
    pass


class OracleBackend(Backend):
    name = "oracle"
    package = "oracle"
    formats = frozenset({"oracle"})

    def __init__(self, folder: Path, fault: str = "") -> None:
        self.conformance_models = folder
        self.fault = fault
        self.probed = 0

    @property
    def version(self) -> str:
        return "one" if self.fault == "a version that is no number" else "1.0"

    def _probe(self) -> list[Device]:
        self.probed += 1
        more = self.probed if self.fault == "other devices each time" else 0
        return [Device("cpu", name="numpy"), *(Device("gpu", index) for index in range(more))]

    def _compatibility(self) -> Compatibility:
        if self.fault == "a misfit without advice":
            return Compatibility({"oracle": "1.0"}, False)
        return Compatibility({"oracle": "1.0"})

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        if self.fault == "leaks":
            leaked.append(b"x" * (1 << 20))
        if device.index != 0 and self.fault != "takes another device":
            raise NoDeviceError("no such device")
        if options.cores is not None and self.fault != "ignores cores":
            raise ConfigError("no cores")
        if options.operator_libraries and self.fault != "ignores operator libraries":
            raise ConfigError("no libraries")
        text = model.read_text(encoding="latin1")
        found = [one for one in NETWORKS if text == CONTENT.format(name=one.name)]
        half = [one for one in NETWORKS if text and CONTENT.format(name=one.name).startswith(text)]
        if not found and self.fault == "loads half a model":
            found = half
        if not found and self.fault == "loads anything":
            found = [NETWORKS[0]]
        if not found and self.fault == "fails when it can't read":
            raise VendorError("can't read")
        if not found:
            raise UnsupportedModelError("not of the oracle's")
        return OracleExecutable(self, found[0], options)

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (VendorError,)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        return EngineError(f"oracle {stage}: {error}")


class OracleExecutable(Executable):
    def __init__(self, engine: OracleBackend, network: ConformanceNetwork, options: LoadOptions) -> None:
        self._engine = engine
        self._network = network
        self._options = options
        self._open = True
        self._shared: Mapping[str, Array] = {}
        self._kept: dict[str, Array] = {}
        self._calls = 0
        self._spinning = threading.Event()
        if self._fault == "spins":
            threading.Thread(target=self._spin, daemon=True).start()

    @property
    def _fault(self) -> str:
        return self._engine.fault

    def _spin(self) -> None:
        block = bytes(64 << 20)  # some 50 ms, since taking the interpreter's lock again may take long
        while not self._spinning.is_set():
            hashlib.sha256(block)  # without the interpreter's lock

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if not self._open and self._fault != "answers when closed":
            raise DeviceError("closed")
        if self._fault == "lets exceptions through":
            raise UndeclaredError("oh")
        arrays = self._checked(inputs)
        if self._fault == "mixes threads up":
            self._shared = arrays
            threading.Event().wait(0.001)
            arrays = dict(self._shared)
        if self._fault == "reads memory as it lies" and not all(one.flags.c_contiguous for one in arrays.values()):
            arrays = {name: np.zeros_like(one, order="C") for name, one in arrays.items()}
        outputs = self._network.compute(arrays)
        self._calls += 1
        return self._spoilt(inputs, outputs)

    def _checked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._fault == "takes inputs by position":
            return dict(zip([spec.name for spec in self._network.inputs], inputs.values(), strict=True))
        arrays: dict[str, Array] = {}
        for spec in self._network.inputs:
            if spec.name not in inputs and self._fault == "runs with an input missing":
                arrays[spec.name] = np.zeros([abs(size) for size in spec.shape], spec.dtype)
                continue
            if spec.name not in inputs:
                raise BadInputFormatError("missing")
            array = inputs[spec.name]
            arrays[spec.name] = array
            if self._fault == "converts types in silence":
                arrays[spec.name] = array = array.astype(spec.dtype)
            if self._fault == "cuts what is too large" and array.ndim == len(spec.shape):
                wanted = tuple(slice(None if size == DYNAMIC else size) for size in spec.shape)
                arrays[spec.name] = array = array[wanted]
            if self._fault == "calls a wrong shape a failure" and array.ndim != len(spec.shape):
                raise VendorError("rank")
            spec.check(array)
        if len(inputs) != len(arrays) and self._fault not in ("ignores other inputs", "runs with an input missing"):
            raise BadInputFormatError("too many")
        return arrays

    def _spoilt(self, inputs: Mapping[str, Array], outputs: dict[str, Array]) -> dict[str, Array]:
        if self._fault == "is wrong by a tenth":
            return {name: array * np.float32(1.1) for name, array in outputs.items()}
        if self._fault == "is wrong in eight bits" and self._network.precision == "int8":
            return {name: array + array.max() / 4 for name, array in outputs.items()}
        if self._fault == "is not a number":
            return {name: array * np.float32(np.nan) for name, array in outputs.items()}
        if self._fault == "gives doubles":
            return {name: array.astype(np.float64) for name, array in outputs.items()}
        if self._fault == "repeats the first of a batch":
            return {name: np.repeat(array[:1], len(array), axis=0) for name, array in outputs.items()}
        if self._fault == "writes into the inputs":
            for array in inputs.values():
                if array.flags.writeable:
                    array[...] = 0
        if self._fault == "reuses its outputs":
            for name, array in outputs.items():
                kept = self._kept.setdefault(name, array)
                if kept.shape == array.shape:
                    kept[...] = array
                    outputs[name] = kept
        return outputs

    def _operators(self) -> tuple[OperatorTime, ...]:
        if self._fault == "profiles unasked" or (self._fault == "exaggerates" and self._calls):
            return (OperatorTime("all", "All", max(1, self._calls), 1e9),)
        if self._options.profile and self._calls:
            return (OperatorTime("all", "All", self._calls, 1.0),)
        return ()

    def _close(self) -> None:
        if not self._open and self._fault == "closes only once":
            raise VendorError("closed already")
        if self._fault == "closes its twins" and self._network.name == "scale":
            self._engine.fault = "lets exceptions through"
        self._open = False
        self._spinning.set()


def shorten_checks(set_to: Callable[[object, str, float], None] = setattr) -> None:
    """Adapts the checks to this engine, also beside other tests.

    numpy takes seconds for a batch that an engine computes in milliseconds, and keeps the interpreter's lock. In a
    short time one of two threads may get nearly no processor from others.
    """
    set_to(options, "LONG_BATCH", 4)
    set_to(options, "WORK_NS_LEAST", 400_000_000)
    set_to(loading, "CYCLES_MAX_S", 0.5)


def report_on_a_right_engine(folder: Path) -> ConformanceReport:
    """Runs all checks; for a process of its own."""
    shorten_checks()
    return run(subject(OracleBackend(folder)))
