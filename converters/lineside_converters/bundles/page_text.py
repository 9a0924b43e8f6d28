"""Make the shipped bundles that read text on pages: ``text-detection``, ``text-orientation`` and ``text-lines``.

They are PP-OCR's networks of the PyPI package ``rapidocr``, whose code is never imported. Detection and recognition are
quantized to INT8 here; the small network for orientation, which runs once a page, stays as it is. ``text-lines`` has no
last layer: that one is a file of its own, with 8 bits a weight, of which a device computes only what it needs
(`lineside_models.nlp.ocr.character_head`).

``python -m lineside_converters.bundles.page_text OUT`` writes the three bundles, for a release that changes them.
"""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.utils import Extractor

from lineside_converters.bundles.builder_command import run_builder
from lineside_converters.bundles.packaging import CARD_NAME, LABELS_NAME
from lineside_converters.certificates.generator import COPY, SCAN, TUNED_ON, make_certificate, scan
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.graph.gelu import with_gelu
from lineside_converters.quantization.static import hash_feeds, quantize
from lineside_models.anomaly.onnx_tail import with_weights
from lineside_models.nlp.ocr.networks import HEAD_FILE, NetworkName
from lineside_models.nlp.ocr.page_ocr import cut_out
from lineside_models.nlp.ocr.text_detection import detect_lines
from lineside_models.nlp.ocr.text_recognition import line_tensor
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import (
    Bundle,
    Manifest,
    Postprocess,
    Preprocess,
    Variant,
    open_bundle,
    time_now,
    write_manifest,
)
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.errors import MissingExtraError, UnsupportedModelError
from lineside_runtime.files import write_atomic

PACKAGE = "rapidocr"
INT8 = Variant(
    name="onnx-int8",
    format="onnx",
    file="onnx-int8/model.onnx",
    level=1,
    precision="int8",
    requires={"onnxruntime": ">=1.20", "openvino": ">=2025.0"},
)
FLOAT = Variant(name="onnx", format="onnx", file="onnx/model.onnx", level=0, precision="fp32")

CALIBRATION_PAGES = 12
"""Generated certificates, scanned and copied, in the layouts that nothing is judged on."""

CALIBRATION_LINES, CALIBRATION_BANDS = 96, 48
FLOAT_FIRST, FLOAT_LAST = 4, 3
"""Convolutions that stay in float, see `convolutions_for_int8`."""

CHARACTERS = "character"
"""Key of the recognition network's metadata: one character a line, without the blank of CTC, the first output."""

Image = npt.NDArray[np.uint8]
Feed = dict[str, npt.NDArray[Any]]


class Network(NamedTuple):
    """A network of the package.

    Attributes:
        role: In the name of its file.
        does: For the model card.
    """

    role: str
    does: str


NETWORKS: dict[NetworkName, Network] = {
    "text-detection": Network("det", "A grey page in, the probability of text at each pixel out."),
    "text-orientation": Network("cls", "Lines of text in, the probability that each stands upside down out."),
    "text-lines": Network(
        "rec",
        "Lines of text of 48 pixels' height in, 120 numbers for each 8 pixels out, of which `head/head.binpb` makes "
        "characters.",
    ),
}


def build_page_text(out: Path, *, int8: bool = True, overwrite: bool = False) -> list[Bundle]:
    """Builds the three bundles from the weights in the PyPI package and generated pages alone.

    Args:
        out: The folder that gets a folder a bundle.
        int8: Whether detection and recognition are quantized; in float they are what INT8 is compared with.
        overwrite: Whether bundles that stand there are replaced.

    Raises:
        MissingExtraError: The package is not installed.
        InputError: Something stands in ``out``.
    """
    for name in NETWORKS:
        check_target(out / name, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    body, head = cut_head(onnx.load(network_file("rec")), int8=int8)
    made = {name: (network_file(one.role).read_bytes(), "none") for name, one in NETWORKS.items()}
    made["text-lines"] = body.SerializeToString(), "none"
    if int8:
        bands, lines = calibration_inputs(network_file("det"))
        for name, feeds in (("text-detection", bands), ("text-lines", lines)):
            made[name] = _quantized(made[name][0], feeds)
    for name, network in NETWORKS.items():
        model, calibration = made[name]
        variant = INT8 if int8 and name != "text-orientation" else FLOAT
        with staging_folder(out / name) as folder:
            (folder / variant.file).parent.mkdir()
            write_atomic(folder / variant.file, model)
            if name == "text-lines":
                (folder / HEAD_FILE).parent.mkdir()
                write_atomic(folder / HEAD_FILE, head)
            write_atomic(folder / LABELS_NAME, b"[]")
            card = _CARD.format(name=name, does=network.does, file=network_file(network.role).name, inputs=calibration)
            write_atomic(folder / CARD_NAME, card.encode())
            write_manifest(folder, _manifest(name, folder / variant.file, variant))
            install_bundle(folder, out / name)
    return [open_bundle(out / name) for name in NETWORKS]


def network_file(role: str) -> Path:
    """Returns a network of the package.

    Raises:
        MissingExtraError: The package is not installed, or has no such file.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = sorted(str(one.locate()) for one in files if one.suffix == ".onnx" and f"_{role}_" in one.name)
    if not found:
        raise MissingExtraError(
            f"no network for text recognition ({role})",
            expected=f"the package {PACKAGE} with its models",
            action="Run: pip install 'lineside[dev]'",
        )
    return Path(found[-1])


def cut_head(model: onnx.ModelProto, *, int8: bool = True) -> tuple[onnx.ModelProto, bytes]:
    """Divides a recognition network into what stands before its last layer, and that layer as `read_head` takes it.

    Raises:
        UnsupportedModelError: It does not end with a product, a sum and a softmax, or names no characters.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    tensors = {one.name: numpy_helper.to_array(one) for one in graph.initializer}

    def inputs(name: str, operator: str) -> list[str]:
        while (node := makers.get(name)) is not None and node.op_type == "Identity":
            name = node.input[0]
        return list(node.input) if node is not None and node.op_type == operator else []

    summands = inputs(next(iter(inputs(graph.output[0].name, "Softmax")), ""), "Add")
    bias = next((one for one in summands if one in tensors), "")
    factors = inputs(next((one for one in summands if one not in tensors), ""), "MatMul")
    characters = next((one.value for one in model.metadata_props if one.key == CHARACTERS), "")
    if not bias or len(factors) != 2 or factors[1] not in tensors or not characters:
        raise UnsupportedModelError(
            "a network for text recognition",
            expected=f"a product, a sum and a softmax at its end, and the metadata {CHARACTERS!r}",
            actual="other operators, or no characters",
            action=f"Install the version of {PACKAGE} that lineside names.",
        )
    weights = tensors[factors[1]].astype(np.float32)
    scales = np.ones(weights.shape[1], np.float32)
    if int8:
        scales = np.maximum(np.abs(weights).max(axis=0) / 127, 1e-12).astype(np.float32)
        weights = np.rint(weights / scales).astype(np.int8)
    names = np.frombuffer(characters.encode(), np.uint8)
    arrays = {"weights": weights, "scales": scales, "bias": tensors[bias].astype(np.float32), "characters": names}
    return _body(model, factors[0]), with_weights(b"", arrays)


def _body(model: onnx.ModelProto, features: str) -> onnx.ModelProto:
    known = onnx.shape_inference.infer_shapes(model)
    if all(value.name != features for value in known.graph.value_info):
        shape = ("N", "T", "D")
        known.graph.value_info.append(onnx.helper.make_tensor_value_info(features, onnx.TensorProto.FLOAT, shape))
    body: onnx.ModelProto = Extractor(known).extract_model([one.name for one in model.graph.input], [features])
    return body


def calibration_inputs(detector: Path) -> tuple[list[Feed], list[Feed]]:
    """Returns what networks for detection and recognition are given for generated pages."""
    session = onnxruntime.InferenceSession(detector, providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    bands: list[Feed] = []
    crops: list[Image] = []

    def network(tensor: npt.NDArray[np.float32]) -> Any:
        bands.append({name: tensor})
        return session.run(None, bands[-1])[0]

    for page in _pages():
        quads, _ = detect_lines(page, network)
        crops += [cut_out(page, quad) for quad in quads]
    chosen = np.random.default_rng(0).permutation(len(crops))[:CALIBRATION_LINES]
    lines = [{"x": line_tensor([crops[number]])} for number in chosen]
    return bands[:: max(1, len(bands) // CALIBRATION_BANDS)], lines


def _pages() -> Iterator[Image]:
    for number in range(CALIBRATION_PAGES):
        seed = 9000 + number
        _, pdf = make_certificate(seed, TUNED_ON[number % len(TUNED_ON)])
        image = cv2.imdecode(
            np.frombuffer(scan(pdf, seed, SCAN if number % 2 else COPY), np.uint8), cv2.IMREAD_GRAYSCALE
        )
        yield np.asarray(image, np.uint8)


def _quantized(model: bytes, feeds: Sequence[Feed]) -> tuple[bytes, str]:
    """Returns the INT8 form, most convolutions in INT8, the rest in float, and the hash of its calibration inputs."""
    with tempfile.TemporaryDirectory() as scratch:
        source, clean, made = (Path(scratch, f"{name}.onnx") for name in ("source", "clean", "int8"))
        source.write_bytes(model)
        clean_graph(source, clean)
        fused = onnx.shape_inference.infer_shapes(with_gelu(onnx.load(clean)))
        onnx.save(fused, clean)
        quantize(clean, made, feeds=feeds, activation="u8s7", only=convolutions_for_int8(fused.graph))
        return made.read_bytes(), hash_feeds(feeds)


def convolutions_for_int8(graph: onnx.GraphProto) -> list[str]:
    """Returns the convolutions that are quantized: those with most of the work.

    The first and last ones stay in float, those of each channel alone, and those on means over the whole map, which
    weigh channels. With all of them in INT8 the network took as long, and 12 % of the lines of receipts (train fold)
    were read differently; without them 7 %.
    """
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    makers = {name: node for node in graph.node for name in node.output}
    in_float = {node.name for node in (*convolutions[:FLOAT_FIRST], *convolutions[-FLOAT_LAST:])}
    for node in convolutions:
        maker = makers.get(node.input[0])
        while (
            maker is not None
            and maker.op_type in ("Relu", "Conv")
            and (maker.op_type == "Relu" or maker.name in in_float)
        ):
            maker = makers.get(maker.input[0])
        pooled = maker is not None and maker.op_type in ("ReduceMean", "GlobalAveragePool")
        if pooled or any(one.name == "group" and one.i > 1 for one in node.attribute):
            in_float.add(node.name)
    return [node.name for node in convolutions if node.name not in in_float]


def _manifest(name: str, model: Path, variant: Variant) -> Manifest:
    facts = read_onnx(model)
    return Manifest(
        name=name,
        version="1.0.0",
        created_at=time_now(),
        task="generic",
        labels=(),
        inputs=facts.inputs,
        outputs=facts.outputs,
        preprocess=Preprocess(input=facts.inputs[0].name, colour="none"),
        postprocess=Postprocess(name="none"),
        variants=(variant,),
        licence="Apache-2.0",
        data_terms={"PP-OCR's training data": "none"},
    )


_CARD = """# {name}

This network does not judge parts. It is one of three that read text. {does}

- **Weights**: PP-OCR's, `{file}` of the PyPI package `{package}` (Apache-2.0). Nothing was trained
  here. PP-OCR's authors do not state the terms of all of its training data.
- **INT8** (detection and recognition): static, per channel, QDQ, most convolutions, weights of 7 bits so that x86
  without VNNI computes the same; calibrated on scans of 12 generated certificates (inputs' sha256 `{inputs}`).
- **Accuracy**: docs/figures/documents.md compares it with the float network.
- **Reads**: Latin, Greek and Cyrillic letters, digits and signs.
""".replace("{package}", PACKAGE)


if __name__ == "__main__":
    sys.exit(run_builder(build_page_text, __doc__))
