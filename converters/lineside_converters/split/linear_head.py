"""Split an INT8 classifier into a trunk, whose output are INT8 features, and its last linear layer.

The trunk goes to devices, the head to ``lineside privacy serve``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.utils import extract_model

from lineside_converters.bundles.packaging import CARD_NAME, LABELS_NAME, golden_frame
from lineside_models.frame import Frame
from lineside_models.golden import read_png, record
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import Bundle, Postprocess, Variant, open_bundle, write_manifest
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.encrypted import HeadDescription, LinearHead, write_head
from lineside_runtime.encrypted.head import sum_bits
from lineside_runtime.errors import GraphError, IncompatibleBundleError
from lineside_runtime.files import write_atomic
from lineside_runtime.session import Session

TRUNK_FOLDER = "trunk"
HEAD_NAME = "head.npz"
DESCRIPTION_NAME = "head.json"

_PASSED = ("QuantizeLinear", "DequantizeLinear", "Identity")  # between the layer and the classifier's output
_ACTION = "Optimize the classifier to INT8 with its last layer: lineside optimize RUN --level 1"


@dataclasses.dataclass(frozen=True, slots=True)
class _LastLayer:
    """The last linear layer of a quantized graph, as it stands there.

    Attributes:
        features: Name of the INT8 tensor that it multiplies.
        feature_zero: Of that tensor, of its type.
        weights: ``(classes, features)``, less their zero point.
        weight_scale: ``(classes,)``.
        bias: ``(classes,)``, as a number.
    """

    features: str
    feature_scale: float
    feature_zero: npt.NDArray[np.integer]
    weights: npt.NDArray[np.int64]
    weight_scale: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]


def split_classifier(source: Bundle, out: Path, *, variant: str | None = None, overwrite: bool = False) -> LinearHead:
    """Writes a trunk as a bundle at ``out/trunk`` and the head at ``out/head.npz``.

    Args:
        source: A classifier with an INT8 ONNX variant.
        variant: Name of that variant; the first one if not given.
        overwrite: Whether an earlier split at ``out`` is replaced.

    Raises:
        IncompatibleBundleError: The bundle is no classifier, or has no such variant.
        GraphError: Its graph does not end with one INT8 linear layer.
        InputError: Something stands at ``out``.
    """
    chosen = _variant(source, variant)
    model = onnx.load(source.file(chosen.file))
    layer = _last_layer(model.graph)
    head = _head(source, layer)
    check_target(out / TRUNK_FOLDER, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    with staging_folder(out / TRUNK_FOLDER) as folder:
        _write_trunk(folder, source, chosen, head.description)
        open_bundle(folder)
        install_bundle(folder, out / TRUNK_FOLDER)
    write_head(out / HEAD_NAME, head)
    return head


def _variant(source: Bundle, name: str | None) -> Variant:
    manifest = source.manifest
    if manifest.task != "classification" or len(manifest.outputs) != 1:
        raise IncompatibleBundleError(
            f"{manifest.identity} is no classifier of one output",
            expected="classification",
            actual=manifest.task,
            action="Give the bundle of an INT8 classifier.",
        )
    for variant in manifest.variants:
        if variant.format == "onnx" and variant.precision == "int8" and name in (None, variant.name):
            return variant
    raise IncompatibleBundleError(
        f"{manifest.identity} has no INT8 ONNX variant" + (f" {name!r}" if name else ""),
        actual=", ".join(f"{variant.name} ({variant.format}, {variant.precision})" for variant in manifest.variants),
        action=_ACTION,
    )


def _head(source: Bundle, layer: _LastLayer) -> LinearHead:
    manifest = source.manifest
    scales = layer.feature_scale * layer.weight_scale
    zero = int(layer.feature_zero)
    bias = np.rint(layer.bias / scales).astype(np.int64) - zero * layer.weights.sum(axis=1)
    limits = np.iinfo(layer.feature_zero.dtype)
    span = (int(limits.min), int(limits.max))
    try:
        described = HeadDescription(
            name=manifest.identity,
            labels=manifest.labels,
            features=layer.weights.shape[1],
            feature_range=span,
            feature_output=layer.features,
            output=manifest.outputs[0].name,
            scales=tuple(float(scale) for scale in scales),
            sum_bits=sum_bits(layer.weights, bias, span),
            postprocess=manifest.postprocess,
        )
    except ValueError as error:
        raise GraphError(f"the head cannot be encrypted: {error}", action="Use a smaller classifier.") from error
    return LinearHead(layer.weights, bias, described)


def _write_trunk(folder: Path, source: Bundle, variant: Variant, described: HeadDescription) -> None:
    manifest = source.manifest
    target = folder / variant.file
    target.parent.mkdir(parents=True)
    inputs = [spec.name for spec in manifest.inputs]
    try:
        extract_model(source.file(variant.file), target, inputs, [described.feature_output])
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"the graph cannot be split before its last layer: {error}") from error
    write_atomic(folder / LABELS_NAME, b"[]")
    write_atomic(folder / DESCRIPTION_NAME, msgspec.json.format(msgspec.json.encode(described), indent=1))
    write_atomic(folder / CARD_NAME, _card(described).encode())
    trunk = msgspec.structs.replace(
        manifest,
        name=f"{manifest.name[:58]}-trunk",
        task="generic",
        labels=(),
        outputs=read_onnx(target).outputs,
        postprocess=Postprocess(name="none"),
        variants=(msgspec.structs.replace(variant, stages=(), memory_bytes=0),),
        golden=None,
        files={},
    )
    given = manifest.golden
    frame = golden_frame() if given is None else Frame(image=read_png(source.file(given.frame)), part_id="golden")
    with Session(write_manifest(folder, trunk)) as session:
        golden = record(session, folder, frame)
    write_manifest(folder, msgspec.structs.replace(trunk, golden=golden))


def _card(described: HeadDescription) -> str:
    return (
        f"# Trunk of {described.name}\n\n"
        f"Computes {described.features} INT8 features of an image. The classifier's last layer is not in this bundle: "
        "a server applies it to the encrypted features (`lineside privacy query`).\n"
    )


def _last_layer(graph: onnx.GraphProto) -> _LastLayer:
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    node = _behind(graph.output[0].name, makers)
    added = None
    if node is not None and node.op_type == "Add":
        products = {name: _behind(name, makers) for name in node.input}
        for name, product in products.items():
            if product is not None and product.op_type == "MatMul":
                added = next(other for other in node.input if other != name)
                node = product
                break
    if node is None or node.op_type not in ("Gemm", "MatMul"):
        raise GraphError(
            "the classifier does not end with a linear layer",
            expected="Gemm or MatMul",
            actual="nothing" if node is None else node.op_type,
            action="Export the classifier with logits as its output.",
        )
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1 or attributes.get("transA", 0):
        raise GraphError("the last layer scales or transposes its input", expected="alpha = beta = 1, transA = 0")
    features, feature_scale, feature_zero = _dequantized(node.input[0], makers, constants)
    name, weight_scale, weight_zero = _dequantized(node.input[1], makers, constants)
    if name not in constants or feature_scale.size != 1 or feature_zero.dtype.itemsize != 1:
        raise GraphError("the last layer is not INT8 with constant weights and one scale of its input", action=_ACTION)
    by_class = attributes.get("transB", 0) == 1  # else one column a class
    scales, zeros = (value.astype(np.float64).reshape(-1) for value in (weight_scale, weight_zero))
    weights = (constants[name] if by_class else constants[name].T).astype(np.int64) - zeros.astype(np.int64)[:, None]
    bias_name = node.input[2] if len(node.input) > 2 else added
    return _LastLayer(
        features=features,
        feature_scale=float(feature_scale.reshape(-1)[0]),
        feature_zero=feature_zero.reshape(-1)[0],
        weights=weights,
        weight_scale=np.broadcast_to(scales, weights.shape[:1]),
        bias=np.broadcast_to(_bias(bias_name, makers, constants), weights.shape[:1]),
    )


def _behind(name: str, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Returns the node that makes a tensor, but for quantization."""
    node = makers.get(name)
    while node is not None and node.op_type in _PASSED:
        node = makers.get(node.input[0])
    return node


def _dequantized(
    name: str, makers: dict[str, onnx.NodeProto], constants: dict[str, npt.NDArray[Any]]
) -> tuple[str, npt.NDArray[Any], npt.NDArray[Any]]:
    """Returns the INT8 tensor behind a dequantized one, its scale and its zero point."""
    node = makers.get(name)
    if node is None or node.op_type != "DequantizeLinear" or not constants.keys() >= set(node.input[1:]):
        raise GraphError("the last layer computes in float", expected="INT8 input and weights", action=_ACTION)
    scale = constants[node.input[1]]
    zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros(1, np.uint8)
    return node.input[0], scale, zero


def _bias(
    name: str | None, makers: dict[str, onnx.NodeProto], constants: dict[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float64]:
    if name is None:
        return np.zeros(1)
    if name in constants:
        return constants[name].astype(np.float64).reshape(-1)
    quantized, scale, zero = _dequantized(name, makers, constants)
    if quantized not in constants:
        raise GraphError("the last layer's bias is computed", expected="constants", action=_ACTION)
    values = constants[quantized].astype(np.float64) - zero.astype(np.float64)
    return (values * scale.astype(np.float64)).reshape(-1)
