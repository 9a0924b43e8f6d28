"""Bytes that a patch takes between two versions of one network, both made INT8 by the recipe of level 1.

The network is the shipped float detector. The old version is its INT8 form; each new version is the INT8 form of the
same float network after one seeded change. The hub makes the patches. Baseline: the whole new file, zstd level 19.

| case | what changed |
| --- | --- |
| ``unchanged`` | nothing: the file is made a second time |
| ``head`` | weights and biases of the three classification layers, by normal noise of 30 % of their spread |
| ``recalibrated`` | the calibration: other frames of the line simulator |
| ``all_a_little`` | weights of every convolution, by normal noise of 0.02 % of their spread |
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.smoke import scaled
from lineside_converters.data.calibration_data import SIMULATED_CALIBRATION, SIMULATOR_SEED
from lineside_converters.graph.cleanup import clean_graph, load_graph
from lineside_converters.levels import FLOAT_CONVS, LEVELS
from lineside_converters.quantization.static import first_convs, quantize
from lineside_converters.targets import find_target
from lineside_hub.repository.deltas import make_patches
from lineside_hub.repository.repository import Repository
from lineside_link.transfer import deltas
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_models.simulator import stream
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest

CASES = scaled(("unchanged", "head", "recalibrated", "all_a_little"), smoke=("head",))
SOURCE = "surface-12-float"
TARGET = "x86"
GROUP = "line"
SEED = 7
FRAMES = scaled(SIMULATED_CALIBRATION, smoke=2)
BARS = {"head": 0.02, "recalibrated": 0.03, "all_a_little": 0.06}


def run() -> dict[str, Any]:
    """Makes all versions and the patches to each from the old one."""
    source = open_bundle(zoo.path(SOURCE))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = Repository.create(folder / "hub", groups=[GROUP])
        old = _publish(repository, source, folder / "old", "1.0.0", _int8(source, "unchanged"))
        return {
            "baseline": "the whole new file, zstd level 19",
            "network": f"{SOURCE} {source.manifest.version}, INT8 by level 1 for {TARGET}, {FRAMES} simulated frames",
            "cases": {
                case: _patched(repository, old, source, folder / case, case, f"{number}.0.0")
                for number, case in enumerate(CASES, 2)
            },
            "bars": BARS,
        }


def _patched(
    repository: Repository, old: Bundle, source: Bundle, folder: Path, case: str, version: str
) -> dict[str, Any]:
    content = _int8(source, case)
    new = _publish(repository, source, folder, version, content)
    patches = make_patches(repository.folder, new.digest, old.digest).patches
    whole = len(deltas.make("zstd", b"", content))
    sent = sum(patch.size for patch in patches)
    return {
        "file_bytes": len(content),
        "whole_zstd_19_bytes": whole,
        "sent_bytes": sent,
        "format": patches[0].format if patches else "unchanged",
        "ratio": round(sent / whole, 4),
    }


def _publish(repository: Repository, source: Bundle, folder: Path, version: str, model: bytes) -> Bundle:
    """Publishes a bundle with this model and the source's description."""
    variant = msgspec.structs.replace(
        source.manifest.variants[0], name="onnx-int8", file="onnx-int8/model.onnx", level=1, precision="int8"
    )
    (folder / "onnx-int8").mkdir(parents=True)
    (folder / variant.file).write_bytes(model)
    manifest = msgspec.structs.replace(source.manifest, version=version, variants=(variant,), golden=None, files={})
    bundle = write_manifest(folder, manifest)
    repository.publish(bundle, GROUP)
    return bundle


def _int8(source: Bundle, case: str) -> bytes:
    """Returns the INT8 file of a case, by the first try of the recipe of level 1."""
    model = onnx.load(source.file(source.manifest.variants[0].file))
    if case == "head":
        _disturb(model, share=0.3, prefix="cls_heads.", suffixes=(".2.weight", ".2.bias"))
    elif case == "all_a_little":
        _disturb(model, share=0.0002)
    seed = SIMULATOR_SEED + (1001 if case == "recalibrated" else 1)
    how = source.manifest.preprocess
    feeds = [{how.input: prepare(frame.image, how)[0]} for frame in itertools.islice(stream(seed), FRAMES)]
    with tempfile.TemporaryDirectory() as name:
        changed, clean, int8 = (Path(name) / f"{part}.onnx" for part in ("float", "clean", "int8"))
        onnx.save(model, changed)
        clean_graph(changed, clean)
        quantize(
            clean,
            int8,
            feeds=feeds,
            method=LEVELS[1].calibrations[0],
            activation=find_target(TARGET).activation,
            exclude=first_convs(load_graph(clean), FLOAT_CONVS[source.manifest.task]),
        )
        return int8.read_bytes()


def _disturb(model: onnx.ModelProto, *, share: float, prefix: str = "", suffixes: tuple[str, ...] = ("",)) -> None:
    """Adds noise to the weights with these names, or to those of all convolutions."""
    random = np.random.default_rng(SEED)
    changed = 0
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        wanted = tensor.name.startswith(prefix) and tensor.name.endswith(suffixes)
        if wanted and values.dtype == np.float32 and (values.ndim == 4 or suffixes != ("",)):
            noise = random.normal(0, share * float(values.std()), values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values + noise, tensor.name))
            changed += 1
    if not changed:
        raise RuntimeError(f"no weight is named {prefix}*{suffixes}")
