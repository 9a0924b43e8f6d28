"""``lineside learn-good`` on magnetic-tile: learns 50 good frames of the train fold, is judged on the validation fold.

Three seeds of the bank. No figure is a time. The data are found as by `benchmarks.models.accuracy`.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.inputs.data import shared
from benchmarks.smoke import scaled
from lineside.inspection.good_frames import good_frames
from lineside_converters.evaluation import judge
from lineside_converters.evaluation.request import EvaluationRequest
from lineside_models.anomaly.learning import LearningOptions, learn
from lineside_models.anomaly.packaging import write_bundle
from lineside_runtime.config import Config

DATA = "magnetic-tile"
FRAMES = scaled(50, smoke=12)
SEEDS = scaled((0, 1, 2), smoke=(0,))
MAX_FRAMES = scaled(None, smoke=12)
BAR = 0.95


def run() -> dict[str, Any]:
    """Learns and judges once a seed."""
    root = shared(DATA)
    frames = list(good_frames([str(root)], FRAMES, fold="train"))
    found = {f"{seed}": _judged(root, frames, seed) for seed in SEEDS}
    rates = [each["auroc"] for each in found.values()]
    return {
        "baseline": "annotations of the validation fold",
        "frames_learned": FRAMES,
        "bars": {"auroc": BAR},
        "auroc": {"mean": round(statistics.mean(rates), 4), "least": min(rates), "most": max(rates)},
        "seeds": found,
    }


def _judged(root: Path, frames: list[Any], seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        learned = learn(frames, LearningOptions(seed=seed, threads=1))
        bundle = write_bundle(learned, Path(name) / "bundle", name="tiles", source=DATA)
        asked = EvaluationRequest(fold="val", max_frames=MAX_FRAMES, config=Config(threads=1, engines=("ort",)))
        figures = msgspec.to_builtins(judge(bundle, root, asked))
    return {
        "frames": figures["frames"],
        "good": figures["good"],
        "auroc": round(figures["auroc"], 4),
        "false_rejects": round(figures["false_rejects"], 4),
        "recall": round(figures["recall"], 4),
        "types": {
            kind: {"auroc": round(each["auroc"], 4), "recall": round(each["recall"], 4), "frames": each["support"]}
            for kind, each in figures["per_class"].items()
        },
    }
