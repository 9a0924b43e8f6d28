"""`Session` behind ``onnx.backend.base.Backend``, and the bare engines behind the same interface."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep

from lineside_runtime.bundle import Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.session import Session
from lineside_runtime.tensors import DYNAMIC, DType, TensorSpec

ENGINES = ("ort", "openvino")

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Folder of the bundles, of which each is synced: 2,000 of them on a disk took longer than all calls."""


def plain(value: Any) -> Any:
    """Turns what onnx's tests hold into what an engine takes: arrays, and lists of them."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if value is None else np.asarray(value)


class LinesideRep(BackendRep):  # type: ignore[misc]  # onnx's base is untyped
    """A model that a session of ours holds."""

    def __init__(self, model: onnx.ModelProto, engine: str) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=MEMORY)
        path = Path(self._folder.name)
        (path / "v").mkdir()
        (path / "v/model.onnx").write_bytes(model.SerializeToString())
        self._inputs = given_inputs(model)
        manifest = Manifest(
            name="node",
            version="1",
            created_at="2026-11-24T00:00:00+00:00",
            labels=("any",),
            inputs=tuple(_spec(value) for value in self._inputs),
            outputs=tuple(_spec(value) for value in model.graph.output),
            preprocess=Preprocess(input=self._inputs[0].name if self._inputs else "", colour="grey"),
            postprocess=Postprocess(name="none"),
            variants=(Variant(name="v", format="onnx", file="v/model.onnx", level=0, precision="fp32"),),
        )
        bundle = write_manifest(path, manifest)
        self._session = Session(bundle, Config(engines=(engine,), fallback_strategy="error", threads=1))
        self._outputs = [value.name for value in model.graph.output]

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        feed = {value.name: one for value, one in zip(self._inputs, inputs, strict=True)}
        outputs = self._session.predict(feed)
        return tuple(outputs[name] for name in self._outputs)

    def close(self) -> None:
        self._session.close()
        self._folder.cleanup()


class LinesideBackend(Backend):  # type: ignore[misc]  # onnx has no types
    """onnx's interface of an engine; ``engine`` is one of ours."""

    engine = "ort"

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> LinesideRep:
        return LinesideRep(model, cls.engine)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


class LinesideOpenVinoBackend(LinesideBackend):
    engine = "openvino"


OURS = {"ort": LinesideBackend, "openvino": LinesideOpenVinoBackend}


def bare_ort(model: onnx.ModelProto) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """onnxruntime as its own documentation calls it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in given_inputs(model)]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def bare_openvino(model: onnx.ModelProto) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """OpenVINO as its own documentation calls it, in float32 as our backend asks for, with its own threads."""
    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Sequence[Any]) -> Sequence[Any]:
        results = compiled(dict(enumerate(inputs)))
        return [results[output] for output in compiled.outputs]

    return run


BARE = {"ort": bare_ort, "openvino": bare_openvino}


def given_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Returns the graph's inputs without those that an initializer fills."""
    filled = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in filled]


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = _kind(value.type.tensor_type.elem_type)
    if kind == "any" or not value.type.tensor_type.HasField("shape"):
        return TensorSpec(name=value.name, shape=(), dtype="any")
    sizes = [size.dim_value if size.HasField("dim_value") else DYNAMIC for size in value.type.tensor_type.shape.dim]
    return TensorSpec(name=value.name, shape=tuple(sizes), dtype=kind)


def _kind(element: int) -> Any:
    """Returns the manifest's name of ONNX's element type, ``any`` where it has none."""
    if element == TensorProto.STRING:
        return "string"
    name = helper.tensor_dtype_to_np_dtype(element).name if element else ""
    return name if name in get_args(DType) else "any"
