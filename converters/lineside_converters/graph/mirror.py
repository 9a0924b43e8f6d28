"""Test-time augmentation in a detector's graph: the mean of its outputs for the frame and for its mirror image.

The input is joined by its mirror image to a batch twice as large, and of each output the mirrored half is turned back
(the boxes' left and right sides exchanged) before the two are averaged, logits and bins alike. It is in the
graph, so that every engine, the golden output and the device use it without a change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lineside_runtime.bundle import Manifest, Variant
from lineside_runtime.errors import UnsupportedModelError
from lineside_runtime.tensors import DYNAMIC

DECODER = "dfl_anchor_free"
"""Whose outputs can be turned back: maps of class logits and of the four sides' bins."""

BOXES = "box_"
"""Begins the names of outputs with the sides' bins."""

SUFFIX = "-mirrored"
"""Of the name of a variant that looks twice."""

WIDTH_AXIS = 3
SIDES = (2, 1, 0, 3)
"""Left, top, right, bottom, as the mirror image has them."""

_BACKWARDS = {"starts": -1, "ends": np.iinfo(np.int64).min, "axes": WIDTH_AXIS, "steps": -1}
"""A slice that goes backwards through all of an axis."""


def is_mirrored(variant: Variant) -> bool:
    """Returns whether a variant uses test-time augmentation."""
    return variant.name.endswith(SUFFIX)


def mirror_graph(model: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """Returns the network with inference at the mirror image added.

    Args:
        model: Graph of one of the bundle's ONNX variants; its batch is free.

    Raises:
        UnsupportedModelError: Its outputs can't be turned back, or its batch is fixed.
    """
    check_mirrorable(manifest)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    graph, image = whole.graph, manifest.preprocess.input
    names = [output.name for output in graph.output]
    both = {image: f"{image}_both", **{name: f"{name}_both" for name in names}}
    for node in graph.node:
        node.input[:] = [both.get(name, name) for name in node.input]
        node.output[:] = [both.get(name, name) for name in node.output]
    del graph.value_info[:]
    made = _Nodes(_opset(whole))
    made.add("Concat", [image, made.turned(image)], both[image], axis=0)
    before = list(graph.node)
    channels = {spec.name: spec.shape[1] for spec in manifest.outputs}
    ending = _Nodes(_opset(whole), made.initializers)
    for name in names:
        ending.mean(name, both[name], bins=channels[name] // len(SIDES) if name.startswith(BOXES) else None)
    del graph.node[:]
    graph.node.extend([*made.nodes, *before, *ending.nodes])
    graph.initializer.extend(made.initializers)
    return whole


class _Nodes:
    """Nodes with the constants that they need."""

    def __init__(self, opset: int, initializers: list[onnx.TensorProto] | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers = [] if initializers is None else initializers
        self._opset = opset

    def add(self, operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), list(outputs), f"mirror_{outputs[0]}", **attributes))
        return outputs[0]

    def constant(self, name: str, values: Any) -> str:
        name = f"mirror_{name}"
        if name not in {one.name for one in self.initializers}:
            self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def turned(self, name: str) -> str:
        """Adds the mirror image of a tensor."""
        ends = [self.constant(key, np.array([value], np.int64)) for key, value in _BACKWARDS.items()]
        return self.add("Slice", [name, *ends], f"{name}_turned")

    def mean(self, name: str, both: str, *, bins: int | None) -> None:
        """Adds the mean of an output's two halves; with ``bins``, it is the distances of a box's sides."""
        parts = {"num_outputs": 2} if self._opset >= 18 else {}
        self.add("Split", [both], f"{name}_own", f"{name}_other", axis=0, **parts)
        other = f"{name}_other"
        if bins is not None:
            order = np.concatenate([np.arange(side * bins, (side + 1) * bins) for side in SIDES])
            other = self.add("Gather", [other, self.constant("sides", order)], f"{name}_exchanged", axis=1)
        self.add("Add", [f"{name}_own", self.turned(other)], f"{name}_sum")
        self.add("Mul", [f"{name}_sum", self.constant("half", np.float32(0.5))], name)


def _opset(model: onnx.ModelProto) -> int:
    return next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))


def check_mirrorable(manifest: Manifest) -> None:
    """Checks that a bundle's outputs can be mirrored back.

    Raises:
        UnsupportedModelError: They can't, or its batch is fixed.
    """
    if manifest.task != "detection" or manifest.postprocess.name != DECODER:
        raise UnsupportedModelError(
            f"{manifest.identity} can't look at mirror images",
            expected=f"a detector whose post-processing is {DECODER}",
            actual=f"{manifest.task}, {manifest.postprocess.name}",
        )
    fixed = [spec.describe() for spec in (*manifest.inputs, *manifest.outputs) if spec.shape[0] != DYNAMIC]
    if fixed:
        raise UnsupportedModelError(
            f"{manifest.identity} can't look at two images at once", expected="a free batch", actual=fixed
        )
