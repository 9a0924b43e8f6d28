"""Level 1 by the command that a customer types, for x86: EfficientNet-Lite0 with its accuracy, ResNet-50 for speed.

- EfficientNet-Lite0 (385 M multiply-accumulates, ImageNet weights) is calibrated on 100 training photos, tuned on 64
  photos of ``imagenet-val-subset`` and judged on the others.
- ResNet-50 (4.1 G) has drawn weights: speed and memory only, whatever its answers are.

Baseline: the float file in ONNX Runtime, one thread, the same frames, interleaved. ``memory_ratio`` compares peaks of
fresh processes. Every variant that the bundle keeps is told; the ratios are of the first, the fastest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.inputs import networks
from benchmarks.inputs.data import shared
from benchmarks.smoke import SMOKE, scaled

LABELS = [str(number) for number in range(1000)]
SIDECAR = """labels = {labels}
[preprocess]
input = "image"
colour = "rgb"
resize = "stretch"
size = [224, 224]
mean = [127.0]
std = [128.0]
[postprocess]
name = "classification"
"""
BARS = {
    "lite0": {"speedup": 2.5, "drop": 0.005, "size_ratio": 0.28},
    "resnet50": {"speedup": 3.5, "memory_ratio": 0.57},
}
MAX_DROP = scaled("0.005", smoke="1")
LIMIT = scaled((), smoke=("--min-metric", "0"))
"""In a smoke run the network is random: no model that anybody would use."""
UNJUDGED = ("--max-drop", "1")
"""Drawn weights give nearly even odds, which any rounding changes: a bound on them would only put layers into float."""

TARGET = scaled("x86", smoke="rpi5")
"""In a smoke run one that this machine isn't, so that the small network needn't be faster in INT8."""

LITE0 = scaled(networks.lite0_float, smoke=networks.small)
KEYS = ("speedup", "metric", "drop", "ci", "size_ratio", "memory_ratio", "variants")


def run() -> dict[str, Any]:
    """Optimises both networks."""
    photos = ("--images", str(shared("imagenet-sample") / "images"))
    judged = ("--data", str(shared("imagenet-val-subset")), "--fold", "all", "--max-drop", MAX_DROP, *LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        return {
            "baseline": "the float file in ONNX Runtime, one thread, interleaved",
            "bars": BARS,
            "lite0": _optimize(LITE0(), Path(folder) / "lite0", *photos, *judged),
            "resnet50": {"left_out": "in a smoke run: the small network stands for both"}
            if SMOKE
            else _optimize(networks.resnet50_float(), Path(folder) / "resnet50", *photos, *UNJUDGED),
        }


def _optimize(model: Path, folder: Path, *options: str) -> dict[str, Any]:
    folder.mkdir()
    given = folder / model.name
    given.write_bytes(model.read_bytes())
    given.with_suffix(".toml").write_text(SIDECAR.format(labels=json.dumps(LABELS)))
    command = ["optimize", str(given), "--level", "1", "--target", TARGET, "--out", str(folder / model.stem), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "lineside", *command, *options], check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout)
    return {"macs": networks.macs(model), **{key: found[key] for key in KEYS}}
