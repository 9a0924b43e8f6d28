"""PyTorch: a bundle's ONNX variant on CUDA, on Cambricon's MLUs, or on the CPU where there is nothing else.

It reads ONNX files (`pytorch_graph`) and nothing of torch's own: ``.pt`` files and exported programs can run code when
they are loaded, and a state dict alone has no graph. For training's own networks there is the ``converters`` component.

Its import costs seconds and hundreds of megabytes, so that it is the last resort (`registry.LAST_RESORT`) unless
`Config.engines` names it. What reads files imports torchvision and with it torch._dynamo, as long again: only `_load`
pays for that. CUDA is **untested on hardware**; there convolutions run in TF32, torch's default.

Cambricon's ``torch_mlu`` (https://github.com/Cambricon/torch_mlu, README.md and ``torch_mlu/mlu/__init__.py``) adds the
device type ``mlu`` and the module ``torch.mlu``, which has the calls of ``torch.cuda``. **Untested on hardware**;
`lineside conformance torch --device npu:0` tests it. A library of custom operators registers them with torch
(``TORCH_LIBRARY``), as in ``examples/mlu_extension`` there.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError

from lineside_runtime.backend import Backend, Compatibility, Executable, Fetch, LoadOptions, OperatorTime, Stage
from lineside_runtime.backends.common.error_texts import error_kind
from lineside_runtime.backends.common.operator_times import OperatorTimes
from lineside_runtime.backends.common.options import threads_on_cores
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    ConfigError,
    DeviceError,
    DeviceLostError,
    EngineError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.system import accelerators, drivers
from lineside_runtime.system.affinity import on_cores
from lineside_runtime.system.packages import installed_version
from lineside_runtime.tensors import Array, InputCheck

if TYPE_CHECKING:
    from lineside_runtime.backends.pytorch_graph import TorchGraph

ERRORS: dict[str, type[LinesideError] | None] = {
    "FatalError": None,
    "OutOfMemoryError": OutOfDeviceMemoryError,
    "AcceleratorError": DeviceLostError,
    "JITException": None,
}
"""The exceptions that stand in ``torch`` itself; where nothing stands, the text decides. Most is ``RuntimeError``."""

_OTHERS = (
    torch.cuda.DeferredCudaCallError,
    onnx.checker.ValidationError,
    DecodeError,
    RuntimeError,  # with NotImplementedError, which is how onnx2torch says that it doesn't know an operator
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
)
"""What onnx, onnx2torch and torch's own modules raise beside them."""

READER = "onnx2torch"
"""What makes a module of an ONNX file."""

MLU = "torch_mlu"
"""Cambricon's package; its import registers ``mlu`` with torch."""


class _Threads:
    """The number of torch's threads: it has one for all of a process, which an executable claims while it is loaded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._default = torch.get_num_threads()
        self._claims: dict[int, int] = {}

    def claim(self, owner: object, threads: int) -> None:
        """Sets the number.

        Raises:
            ConfigError: Another model that is loaded wants another one.
        """
        with self._lock:
            others = set(self._claims.values()) - {threads}
            if others:
                raise ConfigError(
                    "torch has one number of threads in a process",
                    expected=others.pop(),
                    actual=threads,
                    action="Give all models of the torch engine the same threads, or run one in a process of its own.",
                )
            if not self._claims:
                self._default = torch.get_num_threads()
            self._claims[id(owner)] = threads
            torch.set_num_threads(threads)

    def release(self, owner: object) -> None:
        """Releases the setting; the last release restores the former value."""
        with self._lock:
            if self._claims.pop(id(owner), None) is not None and not self._claims:
                torch.set_num_threads(self._default)


_THREADS = _Threads()


class TorchBackend(Backend):
    """PyTorch."""

    name = "torch"
    package = "torch"
    formats = frozenset({"onnx"})
    untested_kinds = frozenset({"gpu", "npu"})

    def __init__(self) -> None:
        """Fails where a library is missing that the first model would need.

        Raises:
            ImportError: onnx2torch isn't installed.
        """
        if importlib.util.find_spec(READER) is None:
            raise ImportError(f"no module {READER}")

    @property
    def version(self) -> str:
        """Version of ``torch``."""
        return str(torch.__version__)

    def _probe(self) -> list[Device]:
        gpus: list[Device] = []
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            facts = torch.cuda.get_device_properties(index)
            gpus.append(Device("gpu", index, facts.name, facts.total_memory, handle=f"cuda:{index}"))
        return [*_mlus(), *gpus, Device("cpu", name="CPU", handle="cpu")]

    def _compatibility(self) -> Compatibility:
        cuda = str(torch.version.cuda or "")
        versions = {"torch": self.version}
        if importlib.util.find_spec(MLU) is not None:
            driver = drivers.module_version("cambricon_drv")
            return _mlu_compatibility({**versions, MLU: installed_version(MLU), "Cambricon's driver": driver})
        if cuda:
            known = {**versions, "cuda of torch": cuda}
            return drivers.cuda_fits(cuda, drivers.nvidia_driver(), versions=known)
        unused = [one for one in accelerators.find() if "torch" in one.engines]
        if unused:
            return Compatibility(
                versions, False, f"there is an accelerator, {unused[0].name}: it needs {unused[0].needs}"
            )
        return Compatibility(versions)

    def _try(self, device: Device) -> bool:
        self._expect_here(device)
        with torch.inference_mode():
            torch.nn.Conv2d(1, 1, 3).to(device.handle)(torch.ones(1, 1, 8, 8, device=device.handle)).cpu()
        return True

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        from lineside_runtime.backends.pytorch_graph import load_operators, read

        self._expect_here(device)
        return TorchExecutable(read(model, load_operators(options.operator_libraries)), device, options)

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (*(getattr(torch, name) for name in ERRORS if hasattr(torch, name)), *_OTHERS)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        text = str(error).strip()
        kind: type[LinesideError] | None = error_kind(error) or ERRORS.get(type(error).__name__)
        if kind is None and stage == "load":
            kind = UnsupportedModelError
        return (kind or EngineError)(f"torch {stage}: {text or type(error).__name__}")


def _mlus() -> list[Device]:
    """Returns Cambricon's cards; none if their package isn't installed, or can't be imported (`_mlu_compatibility`)."""
    if importlib.util.find_spec(MLU) is None:
        return []
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module(MLU)
        module = _module("mlu")
        facts = [module.get_device_properties(index) for index in range(module.device_count())]
        return [
            Device("npu", index, f"Cambricon {one.name}", one.total_memory, handle=f"mlu:{index}")
            for index, one in enumerate(facts)
        ]
    return []


def _mlu_compatibility(versions: Mapping[str, str]) -> Compatibility:
    try:
        importlib.import_module(MLU)
    except (ImportError, OSError) as error:
        return Compatibility(
            versions, False, f"{MLU} can't be imported: {error}. Set NEUWARE_HOME and LD_LIBRARY_PATH."
        )
    return Compatibility(versions, None, f"{MLU}'s README says which torch fits; its version ends in it")


def _module(handle: str) -> Any:
    """Returns torch's module of a device type, such as ``torch.cuda`` for ``cuda:0``."""
    return getattr(torch, handle.partition(":")[0])


class TorchExecutable(Executable):
    """A module on a device. Torch's modules may be called from several threads at once."""

    def __init__(self, network: TorchGraph, device: Device, options: LoadOptions) -> None:
        self._handle = device.handle
        self._module = network.module.to(device.handle, memory_format=torch.channels_last)  # 10 % faster, measured
        self._inputs = [spec.name for spec in network.inputs]
        self._check = InputCheck(network.inputs)
        self._outputs = {spec.name: _to_dtype(spec.dtype) for spec in network.outputs}
        self._profile = _Profile(self._module, network.kinds, device) if options.profile else None
        self._cores = options.cores if device.kind == "cpu" else None
        self._threads = threads_on_cores(options, "torch") if device.kind == "cpu" else None
        if self._threads is not None:
            _THREADS.claim(self, self._threads)

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        module = self._module
        if module is None:
            raise DeviceError("the executable is closed")
        arrays = self._check(inputs)
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # torch keeps the number for each thread
        with torch.inference_mode(), on_cores(self._cores):
            tensors = [self._tensor(arrays[name]) for name in self._inputs]
            results = module(*tensors) if self._profile is None else self._profile.run(*tensors)
            if isinstance(results, torch.Tensor):
                results = [results]
            pairs = zip(self._outputs.items(), results, strict=True)
            answers = {name: result.to("cpu", dtype).contiguous().numpy() for (name, dtype), result in pairs}
        for name, answer in answers.items():
            if any(np.may_share_memory(answer, array) for array in arrays.values()):
                answers[name] = answer.copy()  # a graph may hand an input on
        return answers

    def _tensor(self, array: Array) -> Any:
        whole = np.require(array, requirements=("C", "W"))  # torch warns of what may not be written to
        layout = torch.channels_last if array.ndim == 4 else torch.preserve_format
        return torch.from_numpy(whole).to(self._handle, memory_format=layout)

    def _operators(self) -> tuple[OperatorTime, ...]:
        return () if self._profile is None else self._profile.times()

    def _keep(self, outputs: Mapping[str, Array]) -> Fetch | None:
        if self._handle == "cpu":
            return None
        kept = {name: self._tensor(array) for name, array in outputs.items()}
        return lambda: {name: tensor.cpu().contiguous().numpy() for name, tensor in kept.items()}

    def _close(self) -> None:
        self._module = self._profile = None
        _THREADS.release(self)
        if self._handle != "cpu":
            _module(self._handle).empty_cache()  # or torch keeps the memory for itself


def _to_dtype(name: str) -> Any:
    """Returns torch's type for numpy's name of one."""
    return torch.from_numpy(np.zeros(0, name)).dtype


class _Profile(torch.fx.Interpreter):
    """Times each node of the graph, waiting for the device after each."""

    def __init__(self, module: Any, kinds: Mapping[str, str], device: Device) -> None:
        super().__init__(module)
        self._kinds = kinds
        self._wait = None if device.kind == "cpu" else _module(device.handle).synchronize
        self._lock = threading.RLock()  # an interpreter holds one call's values
        self._sums = OperatorTimes()

    def run(self, *args: Any, **_: Any) -> Any:
        """Runs one call, node by node."""
        with self._lock:
            return super().run(*args)

    def run_node(self, n: Any) -> Any:
        """Runs and times one node."""
        started_ns = time.perf_counter_ns()
        result = super().run_node(n)
        if self._wait is not None:
            self._wait()
        if n.op == "call_module":
            spent_us = (time.perf_counter_ns() - started_ns) / 1000
            self._sums.add([(n.target, self._kinds.get(n.target, "module"), spent_us)])
        return result

    def times(self) -> tuple[OperatorTime, ...]:
        """Returns the mean time of each node."""
        return self._sums.means()
