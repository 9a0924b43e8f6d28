"""What `lineside train` reaches with its defaults: a classifier on x-sdd, a segmenter on magnetic-tile.

One run each, on one thread of one core. ``held`` is the share of the train fold by which the best weights are chosen,
``val`` the fold that nothing is chosen by.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.inputs.data import shared
from benchmarks.smoke import scaled
from lineside_converters.evaluation import EvaluationRequest, judge
from lineside_converters.loading.training_run import read_training
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.trainer import train_classifier
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_converters.training.segmentation.trainer import train_segmenter
from lineside_models.vision.onnx_bundle import wrap_onnx

TILES = scaled("magnetic-tile", smoke="masked-tiles")
FOLD = scaled("val", smoke="all")
SMALL: dict[str, int] = scaled({}, smoke={"epochs": 1, "batch": 4, "side_px": 64})


def run() -> dict[str, Any]:
    """Trains both."""
    return {
        "threads": 1,
        "classifier": _trained(ClassifierConfig, train_classifier, "top1", shared("x-sdd")),
        "segmenter": _trained(SegmenterConfig, train_segmenter, "mean_iou", shared(TILES)),
    }


def _trained(kind: type[Any], train: Callable[..., Any], metric: str, data: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = msgspec.convert({"data": [data], "out": Path(folder) / "run", "threads": 1, **SMALL}, kind)
        began_s = time.monotonic()
        result = train(config, lambda _: None)
        figures = _row(config, time.monotonic() - began_s, getattr(result, f"held_{metric}"))
        return {"data": data.name, **figures, f"val_{metric}": _judged(config.out, data)[metric]}


def _row(config: ClassifierConfig | SegmenterConfig, seconds: float, held: float) -> dict[str, Any]:
    curve = msgspec.json.decode((config.out / "training.json").read_bytes())["curve"]
    return {
        "side_px": config.side_px,
        "epochs": config.epochs,
        "batch": config.batch,
        "seconds": seconds,
        "held": held,
        "curve": curve,
    }


def _judged(run_folder: Path, data: Path) -> dict[str, Any]:
    """Returns the figures of the float model on the fold that nothing was chosen by."""
    facts, _ = read_training(run_folder)
    bundle = wrap_onnx(run_folder / "float.onnx", run_folder / "bundle", facts)
    found: dict[str, Any] = msgspec.to_builtins(judge(bundle, data, EvaluationRequest(fold=FOLD)), enc_hook=str)
    return found
