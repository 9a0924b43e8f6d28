"""Encrypted inference: the last layer of an EfficientNet-Lite0 on X-SDD, applied to encrypted INT8 features.

Baseline: the same INT8 features and weights in the clear, whose sums the decrypted ones must equal bit for bit. The
head is a softmax regression on the features of the train fold; the accuracy is that of the validation fold. Times are
processor times of this process.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.inputs import networks
from benchmarks.inputs.data import shared
from benchmarks.smoke import SMOKE, scaled
from lineside_converters.quantization.static import quantize
from lineside_converters.split.linear_head import HEAD_NAME, TRUNK_FOLDER, split_classifier
from lineside_models.datasets import Sample, load_dataset
from lineside_models.preprocess import prepare
from lineside_models.vision.images import read_image
from lineside_runtime.bundle import Bundle, Postprocess, open_bundle, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.encrypted import read_head
from lineside_runtime.encrypted.trial import try_head
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec

Floats = npt.NDArray[np.floating[Any]]

DATA = "x-sdd"
QUERIES = scaled(10_000, smoke=3)
CALIBRATED_ON = scaled(32, smoke=4)
STEPS, RATE, DECAY = scaled(400, smoke=20), 0.3, 1e-4
GOALS = {"equal": "all", "head_ms": 60, "up_bytes": 250_000, "down_bytes": 120_000}


def run() -> dict[str, Any]:
    """Trains the head, splits the INT8 classifier and asks it `QUERIES` times."""
    folds = {name: load_dataset(shared(DATA), name) for name in ("train", "val")}
    labels = tuple(folds["train"].labels)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        classifier = _classifier(folder, folds["train"].samples, labels)
        split_classifier(classifier, folder / "split")
        head = read_head(folder / "split" / HEAD_NAME)
        frames = {name: _inputs(classifier, dataset.samples) for name, dataset in folds.items()}
        features = {
            name: _outputs(open_bundle(folder / "split" / TRUNK_FOLDER), inputs) for name, inputs in frames.items()
        }
        whole = _outputs(classifier, frames["val"])
        print(f"privacy: {QUERIES} queries", file=sys.stderr, flush=True)
        trial = try_head(head, QUERIES, features=np.concatenate([features["val"], features["train"]]))
        types = _types(folds["val"].samples)
        encrypted = head.sums(features["val"]) * np.array(head.description.scales)
    return {
        "baseline": "the same sums in the clear",
        "goals": GOALS,
        "trial": msgspec.to_builtins(trial),
        "frames": len(types),
        "accuracy": {
            "classifier": round(float((whole.argmax(axis=1) == types).mean()), 4),
            "encrypted": round(float((encrypted.argmax(axis=1) == types).mean()), 4),
        },
    }


def _types(samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
    return np.array([int(one.labels[0]) for one in samples], np.int64)


def _inputs(bundle: Bundle, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    how = bundle.manifest.preprocess
    return [{how.input: prepare(read_image(one.path), how)[0]} for one in samples]


def _outputs(bundle: Bundle, inputs: list[dict[str, Any]]) -> npt.NDArray[Any]:
    with Session(bundle, Config(engines=("ort",), threads=1)) as session:
        return np.concatenate([next(iter(session.predict(one).values())) for one in inputs])


def _classifier(folder: Path, samples: Sequence[Sample], labels: tuple[str, ...]) -> Bundle:
    """Returns an INT8 classifier whose last layer was trained on the network's features."""
    source = networks.small() if SMOKE else networks.lite0_float()
    model = onnx.load(source)
    last = next(node for node in reversed(model.graph.node) if node.op_type in ("Gemm", "MatMul"))
    float_bundle = networks.bundle(source)
    inputs = _inputs(float_bundle, samples)
    weights = _trained(_features(model, last.input[0], folder, inputs), _types(samples), len(labels))
    _replace_last(model, last, weights)
    onnx.save(model, folder / "float.onnx")
    made = folder / "classifier"
    (made / "onnx-int8").mkdir(parents=True)
    quantize(
        folder / "float.onnx", made / "onnx-int8" / "model.onnx", feeds=inputs[:: max(1, len(inputs) // CALIBRATED_ON)]
    )
    manifest = msgspec.structs.replace(
        float_bundle.manifest,
        name="lite0-x-sdd",
        labels=labels,
        outputs=(TensorSpec(name=model.graph.output[0].name, shape=(-1, len(labels))),),
        postprocess=Postprocess(name="classification"),
        variants=(
            msgspec.structs.replace(
                float_bundle.manifest.variants[0],
                name="onnx-int8",
                file="onnx-int8/model.onnx",
                level=1,
                precision="int8",
            ),
        ),
        files={},
    )
    return write_manifest(made, manifest)


def _features(model: onnx.ModelProto, name: str, folder: Path, inputs: list[dict[str, Any]]) -> Floats:
    import onnxruntime

    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.output[:]
    cut.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    engine = onnxruntime.InferenceSession(cut.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([engine.run([name], one)[0] for one in inputs])


def _trained(features: Floats, types: npt.NDArray[np.int64], classes: int) -> tuple[Floats, Floats]:
    """Returns weights ``(features, classes)`` and bias of a softmax regression."""
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
    inputs = (features - mean) / spread / features.shape[1] ** 0.5
    weights, bias = np.zeros((features.shape[1], classes)), np.zeros(classes)
    wanted = np.eye(classes)[types]
    for _ in range(STEPS):
        scores = inputs @ weights + bias
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = (scores / scores.sum(axis=1, keepdims=True) - wanted) / len(types)
        weights -= RATE * features.shape[1] ** 0.5 * (inputs.T @ error + DECAY * weights)
        bias -= RATE * error.sum(axis=0)
    scaled_weights = weights / spread[:, None] / features.shape[1] ** 0.5
    return scaled_weights, bias - mean @ scaled_weights


def _replace_last(model: onnx.ModelProto, last: onnx.NodeProto, trained: tuple[Floats, Floats]) -> None:
    weights, bias = (array.astype(np.float32) for array in trained)
    output = model.graph.output[0].name
    first = next(number for number, node in enumerate(model.graph.node) if node is last or node == last)
    del model.graph.node[first:]
    model.graph.node.append(
        helper.make_node("Gemm", [last.input[0], "head_weights", "head_bias"], [output], name="head")
    )
    model.graph.initializer.extend(
        [numpy_helper.from_array(weights, "head_weights"), numpy_helper.from_array(bias, "head_bias")]
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["n", weights.shape[1]]))
