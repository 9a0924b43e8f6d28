"""A segmenter that can be foreseen: bright pixels are ``bright``; and photos with masks for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from onnx import helper, numpy_helper

from lineside_runtime.bundle import Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.tensors import TensorSpec
from tests.runtime.onnx_models import FLOAT, graph


def segmenter(folder: Path) -> Path:
    """Writes a segmenter that takes bright pixels for ``bright``."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(network())
    return write_manifest(folder, manifest()).path


def network(bar: float = 0.0) -> bytes:
    """Returns its graph: pixels of a prepared value above ``bar`` (from -1 to 1) are bright."""
    values = {
        "slope": np.array([-10.0, 10.0], np.float32).reshape(2, 1, 1, 1),
        "offset": np.array([10, -10], np.float32) * bar,
    }
    nodes = [
        *(helper.make_node("Constant", [], [n], value=numpy_helper.from_array(v, n)) for n, v in values.items()),
        helper.make_node("Conv", ["image", "slope", "offset"], ["scores"]),
    ]
    return graph(nodes, [("image", FLOAT, ["n", 1, "h", "w"])], [("scores", FLOAT, ["n", 2, "h", "w"])])


def manifest() -> Manifest:
    """Returns how photos go in and pixels come out."""
    return Manifest(
        name="bright-pixels",
        version="1",
        task="detection",
        created_at="2026-01-01T00:00:00+00:00",
        labels=("bright",),
        inputs=(TensorSpec(name="image", shape=(-1, 1, -1, -1), dtype="float32"),),
        outputs=(TensorSpec(name="scores", shape=(-1, 2, -1, -1), dtype="float32"),),
        preprocess=Preprocess(
            input="image",
            colour="grey",
            min_side=64,
            max_side=64,
            multiple_of=64,
            mean=(128.0,),
            std=(128.0,),
        ),
        postprocess=Postprocess(name="segmentation"),
        variants=(Variant(name="onnx", format="onnx", file="onnx/model.onnx", level=0, precision="fp32"),),
    )


def photos(root: Path, shifts: tuple[int | None, ...], size: tuple[int, int] = (16, 32)) -> Path:
    """Writes a photo for each shift with a bright square, whose mask lies so many pixels beside it; none for ``None``.

    The square's columns are 250, 245, 241, ... 220 grey, so that a higher bar finds less of it.
    """
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("bright\n")
    for number, shift in enumerate(shifts):
        image, mask = np.full(size, 20, np.uint8), np.zeros(size, np.uint8)
        if shift is not None:
            image[4:12, 8:16] = np.linspace(250, 220, 8)
            mask[4:12, 8 + shift : 16 + shift] = 1
        cv2.imwrite(str(root / "images" / f"{number}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{number}.png"), mask)
    return root
