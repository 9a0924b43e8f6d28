"""The registry of output formats, one converter a file.

A maker is found by the engine's name and imported only when it is used. A missing package is reported as a reason, not
raised as an import error: the engine's variant is then left out, and the report says so.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lineside_converters.levels import Activation, LevelOptions
from lineside_converters.quantization.static import Feed
from lineside_runtime.bundle import Format, Manifest
from lineside_runtime.devices import DeviceKind
from lineside_runtime.precision import Precision

__all__ = ["litert_qdq", "vendor_variant"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRequest:
    """Input and output of a conversion.

    Attributes:
        clean: The cleaned float ONNX file.
        int8: Its INT8 form as QDQ ONNX; ``None`` where nothing is quantised.
        float_nodes: Names of nodes that stay in float, in ``clean``.
        activation: Signedness that the target needs.
        folder: An existing folder to write into.
    """

    clean: Path
    int8: Path | None
    manifest: Manifest
    feeds: Sequence[Feed]
    float_nodes: frozenset[str] = frozenset()
    activation: Activation = "u8s8"
    folder: Path


@dataclasses.dataclass(frozen=True, slots=True)
class SourceCheck:
    """Whether a QDQ graph suits a converter, and why, as a line."""

    suits: bool
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class EngineFile:
    """The file that an engine runs.

    Attributes:
        package: The engine's package, for the manifest's ``requires``.
        requires: Version range of the engine; empty where only the vendor's compiler knows it.
    """

    format: Format
    package: str
    requires: str = ""


ENGINES: dict[str, EngineFile] = {
    "hailo": EngineFile("hailo", "hailort"),
    "rknn": EngineFile("rknn", "rknn-toolkit-lite2"),
    "imx500": EngineFile("imx500", "picamera2"),
    "tensorrt": EngineFile("tensorrt", "tensorrt", ">=10.0"),
    "litert": EngineFile("tflite", "ai-edge-litert", ">=2.0"),
    "openvino": EngineFile("openvino", "openvino", ">=2025.0"),
    "ncnn": EngineFile("ncnn", "ncnn", ">=1.0"),
    "mnn": EngineFile("mnn", "mnn", ">=3.6"),
    "ort": EngineFile("onnx", "onnxruntime", ">=1.20"),
}
"""Engines that run files of their own."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FormatMaker:
    """A converter to one format, as data.

    Attributes:
        name: Name of the variants that it makes, without their precision.
        precision: Precision of what comes out where the level quantizes.
        needs: Python modules that must be there.
        install: How to get them.
        target: Module and function, which takes an `ConversionRequest` and returns the file.
        kinds: Kinds of device that it is made for; empty for all.
        source_check: Module and function that returns the `SourceCheck` of a QDQ graph, also where the converter is not
            installed; empty if there is none.
    """

    name: str
    engine: str
    precision: Precision
    target: str
    needs: tuple[str, ...] = ()
    install: str = ""
    kinds: tuple[DeviceKind, ...] = ()
    source_check: str = ""

    @property
    def file(self) -> EngineFile:
        """File that it writes."""
        return ENGINES[self.engine]

    def missing(self) -> str:
        """Returns why it can't work here; empty if it can."""
        absent = [module for module in self.needs if importlib.util.find_spec(module) is None]
        return f"{', '.join(absent)} not installed: {self.install}" if absent else ""

    def make(self, request: ConversionRequest) -> Path:
        """Writes the file.

        Raises:
            ConvertError: The format can't hold this model, or the vendor's converter gives up.
        """
        make: Callable[[ConversionRequest], Path] = _function(self.target)
        return make(request)

    def check_source(self, int8: Path) -> SourceCheck | None:
        """Returns whether a QDQ graph suits the converter; ``None`` where nothing can be said."""
        return _function(self.source_check)(int8) if self.source_check else None

    def precision_of(self, level: LevelOptions) -> Precision:
        """Returns the precision of what it makes at a level."""
        return self.precision if level.quantizes else "fp32"


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


_HERE = "lineside_converters.formats"

_NCNN = FormatMaker(
    name="ncnn",
    engine="ncnn",
    precision="fp16",
    target=f"{_HERE}.ncnn:make",
    needs=("pnnx", "ncnn"),
    install="pip install 'lineside[ncnn,pnnx]'",
)
_MNN = FormatMaker(
    name="mnn",
    engine="mnn",
    precision="fp32",
    target=f"{_HERE}.mnn:make",
    needs=("MNN",),
    install="pip install 'lineside[mnn]'",
    kinds=("cpu",),
)

MAKERS = (
    FormatMaker(name="onnx", engine="ort", precision="int8", target=f"{_HERE}.onnx_qdq:make"),
    FormatMaker(name="onnx", engine="ort", precision="fp16", target=f"{_HERE}.onnx_half:make", kinds=("gpu",)),
    FormatMaker(
        name="openvino",
        engine="openvino",
        precision="int8",
        target=f"{_HERE}.openvino_ir:make",
        needs=("openvino",),
        install="pip install 'lineside[openvino]'",
    ),
    FormatMaker(
        name="openvino-nncf",
        engine="openvino",
        precision="int8",
        target=f"{_HERE}.openvino_ir:make_nncf",
        needs=("openvino", "nncf"),
        install="pip install 'lineside[nncf]'",
    ),
    FormatMaker(
        name="litert",
        engine="litert",
        precision="int8",
        target=f"{_HERE}.litert:make",
        needs=("litert_torch", "ai_edge_quantizer", "onnx2torch"),
        install="pip install 'lineside[tflite]'",
    ),
    FormatMaker(
        name="litert-qdq",
        engine="litert",
        precision="int8",
        target=f"{_HERE}.litert_qdq:make",
        needs=("ai_edge_litert",),
        install="pip install 'lineside[litert]'",
        kinds=("cpu",),
    ),
    _NCNN,
    dataclasses.replace(_NCNN, precision="int8", target=f"{_HERE}.ncnn:make_int8", kinds=("cpu",)),
    _MNN,
    dataclasses.replace(_MNN, precision="int8", target=f"{_HERE}.mnn:make_int8"),
    FormatMaker(
        name="tensorrt",
        engine="tensorrt",
        precision="int8",
        target=f"{_HERE}.tensorrt:make",
        needs=("tensorrt",),
        install="install TensorRT; on a Jetson, JetPack has it",
        source_check=f"{_HERE}.tensorrt:check_source",
    ),
)
"""All forms that can be made. An engine may have several; the gates keep the one that is fastest here. The first one of
an engine also makes its float form, where nothing is quantized."""


def makers_for(engine: str) -> tuple[FormatMaker, ...]:
    """Returns the makers for an engine; empty if only its vendor has a compiler."""
    return tuple(maker for maker in MAKERS if maker.engine == engine)


def shaped_input(request: ConversionRequest) -> tuple[int, ...] | None:
    """Returns the shape of all calibration inputs; ``None`` if they differ or the model has several inputs."""
    shapes = {feed[name].shape for feed in request.feeds for name in feed}
    single = all(len(feed) == 1 for feed in request.feeds)
    return next(iter(shapes)) if single and len(shapes) == 1 else None
