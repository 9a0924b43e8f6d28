"""What correcting biases brings: EfficientNet-Lite0 on ``imagenet-val-subset``, weights of 8 and of 7 bits.

Calibrated, and corrected, on 64 photos of ``imagenet-sample``. Baseline: the same INT8 file before its biases are
corrected; both are compared with the float file's answers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from benchmarks import networks
from benchmarks.data import shared
from benchmarks.smoke import scaled
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import Activation
from lineside_converters.quantization.bias_correction import correct_biases
from lineside_converters.quantization.static import quantize
from lineside_models.datasets import load_dataset
from lineside_models.preprocess import prepare
from lineside_models.vision.images import read_image
from lineside_runtime.bundle import Preprocess

CALIBRATED = scaled(64, smoke=2)
NETWORK = scaled(networks.lite0_float, smoke=networks.small)
HOW = Preprocess(input="image", colour="rgb", resize="stretch", size=(224, 224), mean=(127.0,), std=(128.0,))
FORMS: tuple[Activation, ...] = ("u8s8", "u8s7")

Frames = list[npt.NDArray[np.float32]]


def run() -> dict[str, Any]:
    """Quantises, corrects and compares."""
    photos = sorted((shared("imagenet-sample") / "images").rglob("*.*"))[:CALIBRATED]
    feeds = [{HOW.input: _prepared(photo)} for photo in photos]
    samples = load_dataset(shared("imagenet-val-subset"), "all").samples
    judged, labels = [_prepared(sample.path) for sample in samples], np.array([int(s.labels[0]) for s in samples])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clean = folder / "clean.onnx"
        clean_graph(NETWORK(), clean)
        wanted = _answers(clean, judged)
        found: dict[str, Any] = {
            "baseline": "the INT8 file before its biases are corrected",
            "frames": len(judged),
            "float": {"top1": float((wanted.argmax(1) == labels).mean())},
        }
        for form in FORMS:
            plain, corrected = folder / f"{form}.onnx", folder / f"{form}-corrected.onnx"
            quantize(clean, plain, feeds=feeds, activation=form)
            layers = correct_biases(clean, plain, corrected, feeds=feeds)
            found[form] = {
                "layers": layers,
                "before": _beside(wanted, _answers(plain, judged), labels),
                "after": _beside(wanted, _answers(corrected, judged), labels),
            }
    return found


def _prepared(path: Path) -> npt.NDArray[np.float32]:
    return np.asarray(prepare(read_image(path), HOW)[0], np.float32)


def _answers(model: Path, frames: Frames) -> npt.NDArray[np.float64]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # sums are exact on every x86
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: frame})[0] for frame in frames])


def _beside(
    wanted: npt.NDArray[np.float64], found: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> dict[str, float]:
    return {
        "top1": float((found.argmax(1) == labels).mean()),
        "agreement": float((found.argmax(1) == wanted.argmax(1)).mean()),
        "error_share": float(((found - wanted) ** 2).mean() / wanted.var()),
    }
