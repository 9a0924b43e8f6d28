"""One network in three precisions, made once and kept in ``benchmarks/.networks/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.inputs import networks
from lineside_converters.formats import ConversionRequest, onnx_half
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.quantization.static import Feed, quantize
from lineside_runtime.bundle import Bundle, Manifest
from lineside_runtime.precision import Precision

CALIBRATION_FRAMES = 8
SMALL_SIDE, SMALL_WIDTH = 64, 0.25


@dataclass(frozen=True, slots=True)
class Forms:
    """One network.

    Attributes:
        bundle: Around the float file.
        files: ONNX by precision: the cleaned float graph, and what is made of it; INT8 is QDQ with zero points of 0, as
            TensorRT wants it.
        feeds: Inputs that INT8 was calibrated on.
    """

    bundle: Bundle
    files: Mapping[Precision, Path]
    feeds: list[Feed]

    @property
    def manifest(self) -> Manifest:
        """Of the float bundle."""
        return self.bundle.manifest

    def request(self, precision: Precision, folder: Path) -> ConversionRequest:
        """Returns the request to a maker."""
        return ConversionRequest(
            clean=self.files["fp32"],
            int8=self.files["int8"] if precision == "int8" else None,
            manifest=self.manifest,
            feeds=self.feeds,
            activation="s8s8",
            folder=folder,
        )


def resnet50() -> Forms:
    """Returns `networks.resnet50_float` in three precisions."""
    return _forms(networks.resnet50_float())


def small() -> Forms:
    """Returns a ResNet-18 of a quarter of its width at 64 x 64, grey, with random weights."""
    source = networks.HOME / "resnet18-small-float.onnx"
    if not source.exists():
        _write_small(source)
    return _forms(source)


def _forms(source: Path) -> Forms:
    name = source.stem.removesuffix("-float")
    clean, int8 = source.with_name(f"{name}-clean.onnx"), source.with_name(f"{name}-int8-s8s8.onnx")
    half = source.with_name(f"{name}-fp16") / "model.onnx"
    if not clean.exists():
        clean_graph(source, clean)
    bundle = networks.bundle(clean)
    (spec,) = bundle.manifest.inputs
    _, channels, height, width = spec.shape
    feeds: list[Feed] = [
        {spec.name: np.ascontiguousarray(networks.frame(seed)[:, :channels, :height, :width])}
        for seed in range(CALIBRATION_FRAMES)
    ]
    forms = Forms(bundle, {"fp32": clean, "fp16": half, "int8": int8}, feeds)
    if not int8.exists():
        quantize(clean, int8, feeds=feeds, activation="s8s8")
    if not half.exists():
        half.parent.mkdir(exist_ok=True)
        onnx_half.make(forms.request("fp16", half.parent))
    return forms


def _write_small(path: Path) -> None:
    import torch

    from lineside_converters.loading.onnx_export import export_onnx
    from lineside_models.networks.classifier import resnet18

    path.parent.mkdir(exist_ok=True)
    export_onnx(
        resnet18(10, width=SMALL_WIDTH).eval(),
        path,
        example=torch.zeros(1, 1, SMALL_SIDE, SMALL_SIDE),
        input_name="image",
        output_names=["logits"],
        dynamic_axes={},
    )
