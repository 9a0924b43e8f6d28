"""Which engines there are: name to backend, imported only when used.

A package of somebody else's adds one by an entry point in the group ``lineside.backends`` that names a subclass of
`Backend`. An engine that is not installed is data with its reason, and never an import error.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import logging
import threading

from lineside_runtime.backend import Backend
from lineside_runtime.devices import Device
from lineside_runtime.errors import DeviceError, EngineMissingError

PREFERENCE = ("tensorrt", "hailo", "rknn", "ort", "openvino", "litert", "ncnn", "torch")
"""The engines in the order in which they are tried for one kind of device; those of entry points follow by name."""

BY_NAME_ONLY = ("null",)
"""Engines that serve a bundle only where `Config.engines` names them."""

ENTRY_POINTS = "lineside.backends"

_BUILTIN = {
    "tensorrt": (
        "lineside_runtime.backends.tensorrt_:TensorRtBackend",
        "install TensorRT; on a Jetson, JetPack has it",
    ),
    "hailo": (
        "lineside_runtime.backends.hailo:HailoBackend",
        "install HailoRT; on Raspberry Pi OS, apt install hailo-all",
    ),
    "rknn": ("lineside_runtime.backends.rknn:RknnBackend", "install rknn-toolkit-lite2 on the board"),
    "ort": ("lineside_runtime.backends.ort:OrtBackend", "pip install onnxruntime"),
    "openvino": ("lineside_runtime.backends.openvino_:OpenVinoBackend", "pip install 'lineside[openvino]'"),
    "litert": ("lineside_runtime.backends.litert:LiteRtBackend", "pip install 'lineside[litert]'"),
    "ncnn": ("lineside_runtime.backends.ncnn_:NcnnBackend", "pip install 'lineside[ncnn]'"),
    "torch": ("lineside_runtime.backends.pytorch:TorchBackend", "pip install 'lineside[torch]'"),
    "null": ("lineside_runtime.backends.null:NullBackend", "it is part of lineside"),
}
_PLUGIN_INSTALL = "install what the package that registered it needs"

log = logging.getLogger("lineside.runtime")
_lock = threading.Lock()
_loaded: dict[str, Backend] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class EngineStatus:
    """What is known of one engine on this machine.

    Attributes:
        name: Such as ``ort``.
        available: Whether it can run something.
        version: Of the engine, empty where it is absent.
        devices: What it can use.
        reason: Why it is absent; empty if it is available.
        install: How to get it.
        untested_kinds: Kinds of device on which nobody has run it yet.
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


def backend(name: str) -> Backend:
    """Returns an engine, importing it on first use.

    Args:
        name: One of `names`.

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
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, OSError) as error:  # OSError: a native library that it wraps is missing
        raise EngineMissingError(
            f"engine {name!r} cannot be imported: {error}", action=f"{install[0].upper()}{install[1:]}."
        ) from error
    if not (isinstance(factory, type) and issubclass(factory, Backend)):
        raise EngineMissingError(f"engine {name!r}", expected="a subclass of Backend", actual=target)
    return factory()


def _target(name: str) -> tuple[str, str]:
    if name in _BUILTIN:
        return _BUILTIN[name]
    plugins = _plugins()
    if name not in plugins:
        raise EngineMissingError(f"no engine {name!r}", expected=f"one of {', '.join((*names(), *BY_NAME_ONLY))}")
    return plugins[name], _PLUGIN_INSTALL


def _plugins() -> dict[str, str]:
    return {point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def status(name: str) -> EngineStatus:
    """Returns what is known of one engine; never raises for one that is absent."""
    install = _target(name)[1] if name in (*names(), *BY_NAME_ONLY) else ""
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
    """Returns all known engines with what they find here, in the order of preference."""
    return tuple(status(name) for name in names())
