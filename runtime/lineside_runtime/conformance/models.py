"""Find the files of the networks that an engine is tried with.

Looked for in this order: what the caller names, the caller's folder, the engine's own folder
(`Backend.conformance_models`), and the files beside this one, which are ONNX, TFLite, ncnn and MNN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineside_runtime.backend import Backend, LoadOptions
from lineside_runtime.conformance.networks import NETWORKS, ConformanceNetwork
from lineside_runtime.errors import ConfigError, InputNotFoundError

FOLDER = Path(__file__).parent / "models"

SUFFIXES: dict[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "tflite": (".tflite",),
    "ncnn": (".ncnn.param",),
    "mnn": (".mnn",),
    "openvino": (".xml",),
    "tensorrt": (".engine", ".plan", ".trt"),
    "hailo": (".hef",),
    "rknn": (".rknn",),
    "imx500": (".rpk",),
    "torch": (".pt", ".pth"),
}
"""How the file of each format ends. One that is not listed here ends with its own name, as ``.mine``."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConformanceModel:
    """A network in a form that the engine reads."""

    network: ConformanceNetwork
    file: Path

    def options(self, **more: Any) -> LoadOptions:
        """Returns the load options that a session would use; ``more`` are fields of `LoadOptions`."""
        network = self.network
        known = {"threads": 1, "precision": network.precision, "inputs": network.inputs, "outputs": network.outputs}
        return LoadOptions(**{**known, **more})


def find(
    backend: Backend, *, folder: Path | None = None, named: Mapping[str, Path] | None = None
) -> tuple[ConformanceModel, ...]:
    """Returns the networks that there is a file for, in the order of `NETWORKS`.

    Args:
        folder: Where files of its format lie, each named after its network.
        named: Network to file; stands before everything else.

    Raises:
        ConfigError: ``named`` has an unknown network.
        InputNotFoundError: A file or the folder isn't there, or there is no file at all that the engine reads.
    """
    named = dict(named or {})
    unknown = sorted(named.keys() - {network.name for network in NETWORKS})
    if unknown:
        expected = f"one of {', '.join(network.name for network in NETWORKS)}"
        raise ConfigError("no such network", expected=expected, actual=", ".join(unknown), action="")
    for path in (*named.values(), *([folder] if folder else [])):
        if not path.exists():
            raise InputNotFoundError(f"no {path}", action="Give a file or folder that is there.")
    places = [place for place in (folder, backend.conformance_models, FOLDER) if place is not None]
    found = ((network, named.get(network.name) or _in(places, network, backend)) for network in NETWORKS)
    models = tuple(ConformanceModel(network, path) for network, path in found if path is not None)
    if not models:
        raise InputNotFoundError(
            f"no conformance network in a format that {backend.name} reads ({', '.join(sorted(backend.formats))})",
            action=f"Compile {FOLDER / 'conv.onnx'} with the vendor's compiler and give it as --model conv=FILE, or "
            "as conv_int8=FILE if it computes in eight bits.",
        )
    return models


def _in(places: list[Path], network: ConformanceNetwork, backend: Backend) -> Path | None:
    for place in places:
        for name in sorted(backend.formats):
            for suffix in SUFFIXES.get(name, (f".{name}",)):
                path = place / f"{network.name}{suffix}"
                if path.is_file():
                    return path
    return None
