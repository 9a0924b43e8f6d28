"""Runs in NNCF's own environment: quantises an ONNX file to OpenVINO's form with ``nncf.quantize`` as it comes.

python quantize_nncf.py MODEL FRAMES.npy INPUT OUT.xml
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import openvino


def main(model: str, frames: str, input_name: str, out: str) -> None:
    given = np.load(frames)
    dataset = nncf.Dataset(list(given), lambda frame: {input_name: frame[None]})
    made = nncf.quantize(openvino.Core().read_model(model), dataset, subset_size=len(given))
    openvino.save_model(made, out, compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
