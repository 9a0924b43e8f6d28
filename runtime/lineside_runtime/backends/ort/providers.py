"""ONNX Runtime's execution providers: which there are, how each is asked for, and where a model really runs.

A provider takes the nodes that it can run and leaves the others to the CPU, which ONNX Runtime reports only in its log
(microsoft/onnxruntime#17801, #23372). Here a model is first loaded with that forbidden. If it doesn't go, it is loaded
with it allowed, and what runs where is read back, logged and kept (`Spread`); a provider that takes nothing at all is
refused, because then the CPU would answer under another device's name.

Two ways lead to a provider: it is built into the package (``onnxruntime-gpu``, ``onnxruntime-openvino``, …), or a
package of its own brings it as a plug-in (``onnxruntime-ep-openvino``, ``onnxruntime-qnn``, …, since 1.23).
https://onnxruntime.ai/docs/execution-providers/
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as vendor

from lineside_runtime.backend import Compatibility, LoadOptions
from lineside_runtime.devices import Device, DeviceKind
from lineside_runtime.errors import (
    ConfigError,
    DriverMismatchError,
    NoDeviceError,
    PartialFallbackError,
    UnsupportedModelError,
)
from lineside_runtime.logs import log

CPU = "CPUExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
WEBGPU = "WebGpuExecutionProvider"
MIGRAPHX = "MIGraphXExecutionProvider"


class Provider(msgspec.Struct, frozen=True):
    """An execution provider that we use.

    Attributes:
        kind: Of its devices; of OpenVINO's each says its own.
        options: What it needs to be told.
        rest: Providers of the same processor that may take the nodes that it can't.
        nodes: Patterns of files of which one must be there; empty if that can't be told from files.
    """

    kind: DeviceKind
    options: Mapping[str, str] = {}
    rest: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


_NVIDIA = ("dev/nvidia[0-9]*", "dev/nvhost-gpu", "dev/nvgpu", "dev/dxg")
_AMD = ("dev/kfd",)

PROVIDERS: dict[str, Provider] = {
    "QNNExecutionProvider": Provider("npu", {"backend_path": "libQnnHtp.so"}),
    "VitisAIExecutionProvider": Provider("npu"),
    "CANNExecutionProvider": Provider("npu"),
    "VSINPUExecutionProvider": Provider("npu"),
    "RknpuExecutionProvider": Provider("npu"),
    "TensorrtExecutionProvider": Provider("gpu", rest=("CUDAExecutionProvider",), nodes=_NVIDIA),
    "CUDAExecutionProvider": Provider("gpu", nodes=_NVIDIA),
    MIGRAPHX: Provider("gpu", rest=("ROCMExecutionProvider",), nodes=_AMD),
    "ROCMExecutionProvider": Provider("gpu", nodes=_AMD),
    WEBGPU: Provider("gpu"),
    CPU: Provider("cpu"),
    OPENVINO: Provider("cpu"),
    "XnnpackExecutionProvider": Provider("cpu"),
    "ACLExecutionProvider": Provider("cpu"),
    "ArmNNExecutionProvider": Provider("cpu"),
    "DnnlExecutionProvider": Provider("cpu"),
}
"""Best first within a kind. Left out: those of other systems (CoreML, DirectML, NNAPI, JS), and Azure's, which runs
nothing here."""

_KINDS: dict[str, DeviceKind] = {"CPU": "cpu", "GPU": "gpu", "NPU": "npu"}
_FORBIDDEN = "fallback to CPU EP has been explicitly disabled"
_PLUGIN = "plugin:"
_SOFTWARE = "by any Vulkan driver"
"""Name of WebGPU's device where ONNX Runtime finds no GPU and ``ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER`` is set: which
driver computes isn't told, so that it counts as emulated. https://github.com/microsoft/onnxruntime/pull/32287"""
_PLUGIN_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(vendor).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    *(ImportError, AttributeError, OSError, RuntimeError, IndexError),
)

_lock = threading.Lock()
_registered: dict[str, str] = {}


class Spread(msgspec.Struct, frozen=True):
    """Where the nodes of a loaded model run.

    Attributes:
        nodes: Provider to the types of its nodes and how many there are of each; empty where this version doesn't say.
    """

    nodes: Mapping[str, Counter[str]]

    def describe(self, asked: str) -> str:
        """Returns for example ``Det ×1, Resize ×2 of 57 nodes run on the CPU``."""
        left = Counter[str]()
        for provider, kinds in self.nodes.items():
            if provider == CPU and provider != asked:
                left += kinds
        if not left:
            return "an unknown part of it runs on the CPU"
        total = sum(sum(kinds.values()) for kinds in self.nodes.values())
        return f"{', '.join(f'{kind} ×{n}' for kind, n in sorted(left.items()))} of {total} nodes run on the CPU"


class OpenedSession(msgspec.Struct, frozen=True):
    """A session that is ready.

    Attributes:
        session: An ``InferenceSession``.
        shortfall: What runs on the CPU although another processor was asked for; ``None`` if nothing does.
    """

    session: Any
    shortfall: PartialFallbackError | None = None


def devices() -> list[Device]:
    """Returns the devices of the installed providers, best first within a kind; ``cpu:0`` is ONNX Runtime's own CPU."""
    found: list[Device] = []
    for kind, name, handle in (*_built_in(), *_plugged_in()):
        index = sum(device.kind == kind for device in found)
        found.append(Device(kind, index, name=name, handle=handle, emulated=name.endswith(_SOFTWARE)))
    return found


_NO_FALLBACK = {"enable_fallback": 0}
"""Of ``InferenceSession``, which would print the error of a provider, and then answer on the CPU."""


def open_session(model: Path, handle: str, options: LoadOptions, make: Callable[[LoadOptions], Any]) -> OpenedSession:
    """Loads a model on one provider.

    Args:
        handle: Of one of `devices`.
        options: What it is loaded with.
        make: Makes ONNX Runtime's options anew for each try.

    Raises:
        NoDeviceError: The provider isn't installed.
        DriverMismatchError: The provider doesn't start, such as for a library that is missing.
        UnsupportedModelError: The provider can run no node of the model.
        ConfigError: ``options.cores`` is given, and the provider can't keep to them.
        PartialFallbackError: It can't run all of them, and ``options.whole`` says that it must.
    """
    if handle == CPU:
        return OpenedSession(onnxruntime.InferenceSession(str(model), make(options), providers=[CPU], **_NO_FALLBACK))
    name = handle.removeprefix(_PLUGIN).partition("?")[0].partition("#")[0]
    available = onnxruntime.get_available_providers()
    if not handle.startswith(_PLUGIN) and name not in available:  # it would warn, and take the CPU
        raise NoDeviceError("onnxruntime has no such execution provider", expected=available, actual=handle)
    try:
        return OpenedSession(_session(model, handle, options, make, whole=True))
    except vendor.Fail as error:
        if _FORBIDDEN not in str(error):
            raise
    session = _session(model, handle, options, make, whole=False)
    spread = _spread(session)
    taken = [provider for provider in spread.nodes if provider != CPU]
    if spread.nodes and not taken:
        raise UnsupportedModelError(f"onnxruntime: {name} can run no node of {model.name}; the CPU would run them all")
    shortfall = PartialFallbackError(f"onnxruntime {name}: {model.name}: {spread.describe(name)}")
    if options.whole:
        raise shortfall
    log.warning("%s", shortfall)
    return OpenedSession(session, shortfall)


def cuda_card(handle: str) -> int | None:
    """Returns the number of the NVIDIA card that one of `devices` is; ``None`` if it is none."""
    name, _, number = handle.partition("?device_id=")
    return int(number) if number and PROVIDERS[name].nodes == _NVIDIA else None


def compatibility(versions: Mapping[str, str], root: Path | str = "/") -> Compatibility:
    """Returns whether NVIDIA's driver fits the CUDA, or AMD's ROCm the provider, that this build needs."""
    found = {**versions, **plugin_versions()}
    available = onnxruntime.get_available_providers()
    if MIGRAPHX in available:
        from lineside_runtime.backends.ort import amd

        return amd.compatibility(found, root)
    if not {"CUDAExecutionProvider", "TensorrtExecutionProvider"} & set(available):
        return Compatibility(found)
    from lineside_runtime.system import drivers  # only `lineside devices` asks

    built = importlib.import_module("onnxruntime.capi.build_and_package_info")
    cuda, driver = str(getattr(built, "cuda_version", "")), drivers.nvidia_driver(root)
    found |= {"CUDA it was built for": cuda, "NVIDIA driver": driver}
    jetson = drivers.jetson_release(root)
    if jetson:
        return Compatibility({**found, "Jetson Linux": jetson}, None, "on a Jetson, take the build for this JetPack")
    return drivers.cuda_fits(cuda, driver, versions=found)


def plugin_versions() -> dict[str, str]:
    """Returns the registered plug-ins, and their versions where they state one."""
    versions: dict[str, str] = {}
    for device in _ep_devices():
        if device.ep_name in _registered:
            versions[_registered[device.ep_name]] = str(device.ep_metadata.get("version", ""))
    return versions


def _built_in() -> Iterator[tuple[DeviceKind, str, str]]:
    register_plugins()
    available = [name for name in onnxruntime.get_available_providers() if name not in _registered]
    for name, provider in PROVIDERS.items():
        if name not in available or (provider.nodes and not _count(provider.nodes)):
            continue
        short = name.removesuffix("ExecutionProvider")
        if name == OPENVINO:
            for one in _openvino_devices():
                yield _KINDS[one.partition(".")[0]], f"{short} {one}", f"{name}?device_type={one}"
        elif provider.nodes == _NVIDIA:
            for number in range(_count(provider.nodes)):
                yield provider.kind, f"{short} {number}", f"{name}?device_id={number}"
        elif provider.nodes == _AMD:
            from lineside_runtime.backends.ort import amd  # only where there is one

            for number, gpu in enumerate(amd.gpus()):
                yield provider.kind, f"{short} {gpu}", f"{name}?device_id={number}"
        else:
            yield provider.kind, short, name


def _openvino_devices() -> list[str]:
    """Such as ``CPU``, ``GPU.0`` and ``NPU``; the question is in that build alone."""
    ask = getattr(vendor, "get_available_openvino_device_ids", None)
    return [one for one in (ask() if ask else ["CPU"]) if one.partition(".")[0] in _KINDS]


def _count(patterns: Iterable[str]) -> int:
    """How many devices these nodes stand for; a Jetson's GPU has several names and is one."""
    found = [len(list(Path("/").glob(pattern))) for pattern in patterns]
    return found[0] or min(1, sum(found))


def _plugged_in() -> Iterator[tuple[DeviceKind, str, str]]:
    for number, device in enumerate(_ep_devices()):
        if device.ep_name not in _registered:
            continue  # asked first: the binding loses 58 bytes whenever it names a device's type
        kind = _KINDS.get(device.device.type.name)
        if kind is not None:
            name = device.ep_name.removesuffix("ExecutionProvider")
            full = device.ep_metadata.get("FULL_DEVICE_NAME", "") or device.device.vendor
            if (device.ep_name, kind) == (WEBGPU, "cpu"):  # it computes by Vulkan all the same
                kind, full = "gpu", _SOFTWARE
            yield kind, f"{name} {full}".strip(), f"{_PLUGIN}{device.ep_name}#{number}"


def _ep_devices() -> list[Any]:
    ask = getattr(onnxruntime, "get_ep_devices", None)
    return list(ask()) if ask else []


def register_plugins() -> None:
    """Tells ONNX Runtime of the plug-ins that are installed; done twice it changes nothing.

    They are packages called ``onnxruntime_ep_…`` or ``onnxruntime_qnn`` with ``get_library_path`` and
    ``get_ep_names``. One that can't be loaded is logged, and its devices aren't there.
    """
    register = getattr(onnxruntime, "register_execution_provider_library", None)
    if register is None:
        return
    with _lock:
        for package in _plugin_packages():
            if package in _registered.values():
                continue
            try:
                module = importlib.import_module(package)
                names = list(module.get_ep_names())
                register(names[0], module.get_library_path())
            except _PLUGIN_ERRORS as error:
                log.warning("ort: the plug-in %s can't be used: %s", package, error)
                names = [package]  # so that it isn't tried again
            _registered.update(dict.fromkeys(names, package))


def _plugin_packages() -> list[str]:
    """Names of packages that may be plug-ins; each folder is listed once, as this is asked at each start."""
    found: set[str] = set()
    for place in dict.fromkeys(filter(None, sys.path)):
        with contextlib.suppress(OSError):  # not a folder, as an archive on the path
            names = os.listdir(place)  # noqa: PTH208  # Path.iterdir would make a path of each of hundreds of names
            wanted = [name for name in names if name == "onnxruntime_qnn" or name.startswith("onnxruntime_ep_")]
            found.update(name for name in wanted if Path(place, name, "__init__.py").is_file())
    return sorted(found)


def _session(model: Path, handle: str, options: LoadOptions, make: Callable[[LoadOptions], Any], *, whole: bool) -> Any:
    made = make(options)
    made.add_session_config_entry("session.disable_cpu_ep_fallback", "1" if whole else "0")
    made.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if handle.startswith(_PLUGIN):
        device = _plugin_device(handle)
        on_cpu = device.ep_name == OPENVINO and device.device.type.name == "CPU"
        made.add_provider_for_devices([device], _openvino_settings(options) if on_cpu else {})
        return onnxruntime.InferenceSession(str(model), made, **_NO_FALLBACK)
    name, _, choice = handle.partition("?")
    provider = PROVIDERS.get(name, Provider("cpu"))
    settings = {**provider.options, **dict([choice.split("=", 1)] if choice else [])}
    if settings.get("device_type") == "CPU":
        settings |= _openvino_settings(options)
    if name == "XnnpackExecutionProvider" and options.threads is not None:
        settings["intra_op_num_threads"] = str(options.threads)  # it has threads of its own
        made.intra_op_num_threads = 1
    rest = [one for one in provider.rest if one in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(str(model), made, providers=[(name, settings), *rest], **_NO_FALLBACK)
    used = session.get_providers()
    if used[0] != name:  # it warns and takes the CPU instead where a library is missing
        raise DriverMismatchError(f"onnxruntime did not start {name}", expected=name, actual=used)
    return session


def _openvino_settings(options: LoadOptions) -> dict[str, str]:
    """Returns the settings of OpenVINO's provider on a CPU, where it has its own threads.

    ``load_config`` takes JSON itself since 1.23, and a file's name before, which we don't write.

    Raises:
        ConfigError: Cores are given: its threads are the process's and stay where they were begun, and the plug-in
            1.8.1 even takes the calling thread off the cores that it was put on (both measured).
    """
    if options.cores:
        raise ConfigError("onnxruntime's OpenVINO provider keeps to no cores", action="Use the engine openvino.")
    told: dict[str, str] = {}
    if options.threads is not None:
        told["INFERENCE_NUM_THREADS"] = str(options.threads)
    if options.precision == "fp32":
        told["INFERENCE_PRECISION_HINT"] = "f32"  # or it computes in bf16 where the CPU can
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 23):
        return {"num_of_threads": str(options.threads)} if options.threads is not None else {}
    return {"load_config": msgspec.json.encode({"CPU": told}).decode()} if told else {}


def _plugin_device(handle: str) -> Any:
    name, _, number = handle.removeprefix(_PLUGIN).partition("#")
    found = _ep_devices()
    if not number.isdigit() or int(number) >= len(found) or found[int(number)].ep_name != name:
        raise NoDeviceError(f"onnxruntime has no device {handle}", actual=[one.ep_name for one in found])
    return found[int(number)]


def _spread(session: Any) -> Spread:
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    nodes: dict[str, Counter[str]] = {}
    for part in ask() if ask else ():
        nodes.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return Spread(nodes)
