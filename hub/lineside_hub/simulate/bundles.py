"""Two versions of a small bundle of noise: the second one differs in its last eighth, as a retrained head does."""

from __future__ import annotations

import random
from pathlib import Path

from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.tensors import TensorSpec

NAME = "simulated"
FILE = "onnx-int8/model.onnx"


def make_bundle(folder: Path, version: int, size: int) -> Bundle:
    """Makes a bundle that no engine loads.

    Args:
        folder: A new one.
        version: 1, 2, …
        size: Of its model, in bytes.
    """
    head = random.Random(0).randbytes(size - size // 8)
    (folder / FILE).parent.mkdir(parents=True)
    (folder / FILE).write_bytes(head + random.Random(version).randbytes(size // 8))
    (folder / "labels.json").write_text('["scratch"]')
    spec = TensorSpec(name="image", shape=(-1, 1, 224, 224), layout="NCHW")
    return write_manifest(
        folder,
        Manifest(
            name=NAME,
            version=f"{version}.0.0",
            created_at="2026-11-25T00:00:00Z",
            labels=("scratch",),
            inputs=(spec,),
            outputs=(spec,),
            preprocess=Preprocess(input="image", colour="grey"),
            postprocess=Postprocess(name="dfl_anchor_free"),
            variants=(Variant(name="onnx-int8", format="onnx", file=FILE, level=1, precision="int8"),),
        ),
    )
