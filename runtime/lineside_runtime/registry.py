"""The known engines: name to backend, imported only when used.

Another package adds one by an entry point in the group ``lineside.backends`` that names a subclass of
`Backend`. An engine that is not installed is data with its reason, and never an import error.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator

import msgspec

from lineside_runtime.backend import Backend
from lineside_runtime.devices import KINDS, Device, DeviceKind
from lineside_runtime.errors import DeviceError, EngineMissingError
from lineside_runtime.system.collector import paused

PREFERENCE = ("tensorrt", "hailo", "rknn", "ort", "openvino", "litert", "ncnn", "mnn", "torch", "imx500")
"""The engines in the order in which they are tried for one kind of device; those of entry points follow by name."""

LAST_RESORT = ("torch", "imx500")
"""Engines that are asked only where no other one can serve a bundle, whatever the kind of device: the import of torch
alone costs seconds and hundreds of megabytes, and imx500 takes the camera away from its own frames."""

BY_NAME_ONLY = ("null",)
"""Engines that serve a bundle only where `Config.engines` names them."""

ENTRY_POINTS = "lineside.backends"


class _Builtin(msgspec.Struct, frozen=True):
    """What is known of a built-in engine without importing it; a test compares it with the engine.

    Attributes:
        target: Module and class.
        modules: Python modules of the vendor's of which it needs one; empty if it needs none.
        formats: The variant formats that it reads; empty for any.
        kinds: Kinds of device that it can have anywhere.
        needs_hardware: Whether each NPU or GPU of its shows in `hardware`. Not so where one may be on USB or software.
    """

    target: str
    install: str
    modules: tuple[str, ...]
    formats: frozenset[str]
    kinds: frozenset[DeviceKind]
    needs_hardware: bool = False


_EVERY_KIND: frozenset[DeviceKind] = frozenset(KINDS)
_NPU: frozenset[DeviceKind] = frozenset({"npu"})
_GPU: frozenset[DeviceKind] = frozenset({"gpu"})

_BUILTIN = {
    "tensorrt": _Builtin(
        "lineside_runtime.backends.tensorrt_:TensorRtBackend",
        "install TensorRT; on a Jetson, JetPack has it",
        ("tensorrt",),
        frozenset({"tensorrt"}),
        _GPU,
        needs_hardware=True,
    ),
    "hailo": _Builtin(
        "lineside_runtime.backends.hailo:HailoBackend",
        "install HailoRT; on Raspberry Pi OS, apt install dkms hailo-all",
        ("hailo_platform",),
        frozenset({"hailo"}),
        _NPU,
    ),
    "rknn": _Builtin(
        "lineside_runtime.backends.rknn:RknnBackend",
        "install rknn-toolkit-lite2 on the board",
        ("rknnlite",),
        frozenset({"rknn"}),
        _NPU,
    ),
    "ort": _Builtin(
        "lineside_runtime.backends.ort.backend:OrtBackend",
        "pip install onnxruntime",
        ("onnxruntime",),
        frozenset({"onnx"}),
        _EVERY_KIND,
        needs_hardware=True,
    ),
    "openvino": _Builtin(
        "lineside_runtime.backends.openvino_:OpenVinoBackend",
        "pip install 'lineside[openvino]'",
        ("openvino",),
        frozenset({"onnx", "openvino"}),
        _EVERY_KIND,
        needs_hardware=True,
    ),
    "litert": _Builtin(
        "lineside_runtime.backends.litert:LiteRtBackend",
        "pip install 'lineside[litert]'",
        ("ai_edge_litert", "tflite_runtime"),
        frozenset({"tflite"}),
        frozenset({"npu", "cpu"}),
    ),
    "ncnn": _Builtin(
        "lineside_runtime.backends.ncnn_:NcnnBackend",
        "pip install 'lineside[ncnn]'",
        ("ncnn",),
        frozenset({"ncnn"}),
        frozenset({"gpu", "cpu"}),
    ),
    "mnn": _Builtin(
        "lineside_runtime.backends.mnn_:MnnBackend",
        "pip install 'lineside[mnn]'",
        ("MNN",),
        frozenset({"mnn"}),
        frozenset({"cpu"}),
    ),
    "torch": _Builtin(
        "lineside_runtime.backends.pytorch:TorchBackend",
        "pip install 'lineside[torch]'",
        ("torch",),
        frozenset({"onnx"}),
        _EVERY_KIND,
        needs_hardware=True,
    ),
    "imx500": _Builtin(
        "lineside_runtime.backends.imx500:Imx500Backend",
        "on Raspberry Pi OS, apt install imx500-all python3-picamera2",
        ("picamera2",),
        frozenset({"imx500"}),
        _NPU,
        needs_hardware=True,
    ),
    "null": _Builtin(
        "lineside_runtime.backends.null:NullBackend",
        "it is part of lineside",
        (),
        frozenset(),
        _EVERY_KIND,
    ),
}
_PLUGIN_INSTALL = "install what the package that registered it needs"

_lock = threading.Lock()
_loaded: dict[str, Backend] = {}


class EngineStatus(msgspec.Struct, frozen=True):
    """What is known of one engine on this machine.

    Attributes:
        name: Such as ``ort``.
        available: Whether it can run something.
        version: Of the engine, empty where it is absent.
        reason: Why it is absent; empty if it is available.
        untested_kinds: Kinds of device on which it is untested.
    """

    name: str
    available: bool
    version: str = ""
    devices: tuple[Device, ...] = ()
    reason: str = ""
    install: str = ""
    untested_kinds: frozenset[str] = frozenset()


def names() -> tuple[str, ...]:
    """Returns the engines that may serve any bundle, installed or not, in the order of preference."""
    return (*PREFERENCE, *sorted(set(_plugins()) - set(_BUILTIN)))


def names_by_preference() -> Iterator[str]:
    """Yields the names without the last resort; engines of other packages are searched for after the built-in ones."""
    yield from (name for name in PREFERENCE if name not in LAST_RESORT)
    yield from sorted(set(_plugins()) - set(_BUILTIN))


def may_read(name: str, model_format: str, kind: DeviceKind) -> bool:
    """Returns whether an engine may read a format on a kind of device, without importing it."""
    known = _BUILTIN.get(name)
    return known is None or (kind in known.kinds and (not known.formats or model_format in known.formats))


def kinds(name: str) -> frozenset[DeviceKind]:
    """Returns the kinds of device that a built-in engine can have, without importing it; empty for another engine."""
    return _BUILTIN[name].kinds if name in _BUILTIN else frozenset()


def needs_hardware(name: str) -> bool:
    """Returns whether an engine's NPUs and GPUs all show in `hardware`."""
    return name in _BUILTIN and _BUILTIN[name].needs_hardware


def vendor_modules(name: str) -> tuple[str, ...]:
    """Returns the Python modules of which a built-in engine needs one; empty if none, or for another engine."""
    return _BUILTIN[name].modules if name in _BUILTIN else ()


def missing(name: str) -> EngineMissingError | None:
    """Returns why an engine can't be here, without importing it; ``None`` if it seems to be installed."""
    try:
        target, install = _target(name)
    except EngineMissingError as error:
        return error
    modules = _BUILTIN[name].modules if name in _BUILTIN else (target.partition(":")[0].partition(".")[0],)
    if not modules or any(_importable(module) for module in modules):
        return None
    return EngineMissingError(f"engine {name!r} is not installed: no module {modules[0]}", action=_sentence(install))


def _importable(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None  # None is how Python marks what must not be imported
    import importlib.util  # only for engines that are named

    return importlib.util.find_spec(module) is not None


def _sentence(install: str) -> str:
    return f"{install[0].upper()}{install[1:]}."


def backend(name: str) -> Backend:
    """Returns an engine, importing it on first use.

    Raises:
        EngineMissingError: Not a known engine, or not installed.
        DeviceError: It is installed but does not start.
    """
    with _lock:
        if name not in _loaded:
            _loaded[name] = _import(name)
        return _loaded[name]


def _import(name: str) -> Backend:
    target, install = _target(name)
    module, _, attribute = target.partition(":")
    try:
        with paused():
            factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, OSError) as error:  # OSError: a native library that it wraps is missing
        raise EngineMissingError(f"engine {name!r} cannot be imported: {error}", action=_sentence(install)) from error
    if not (isinstance(factory, type) and issubclass(factory, Backend)):
        raise EngineMissingError(f"engine {name!r}", expected="a subclass of Backend", actual=target)
    try:
        return factory()
    except (ImportError, OSError) as error:  # an engine whose file can be read without the vendor's package
        raise EngineMissingError(f"engine {name!r} is not installed: {error}", action=_sentence(install)) from error


def _target(name: str) -> tuple[str, str]:
    if name in _BUILTIN:
        return _BUILTIN[name].target, _BUILTIN[name].install
    plugins = _plugins()
    if name not in plugins:
        raise EngineMissingError(f"no engine {name!r}", expected=f"one of {', '.join((*names(), *BY_NAME_ONLY))}")
    return plugins[name], _PLUGIN_INSTALL


def _plugins() -> dict[str, str]:
    from importlib.metadata import entry_points  # reads every installed package: only where it is needed

    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def install_hint(name: str) -> str:
    """Returns how to get an engine; empty if it isn't known."""
    return _target(name)[1] if name in (*names(), *BY_NAME_ONLY) else ""


def status(name: str) -> EngineStatus:
    """Returns what is known of one engine; never raises for one that is absent."""
    install = install_hint(name)
    try:
        engine = backend(name)
        devices = tuple(engine.probe())
    except DeviceError as error:
        return EngineStatus(name=name, available=False, reason=str(error), install=install)
    return EngineStatus(
        name=name,
        available=bool(devices),
        version=engine.version,
        devices=devices,
        reason="" if devices else "it finds no device here",
        install=install,
        untested_kinds=engine.untested_kinds,
    )


def engines() -> tuple[EngineStatus, ...]:
    """Returns all known engines with the devices that they find, in the order of preference."""
    return tuple(status(name) for name in names())
