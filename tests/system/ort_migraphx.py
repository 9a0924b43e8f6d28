"""Tries our ONNX Runtime backend with AMD's package; prints one JSON object.

python ort_migraphx.py MODEL.onnx
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.backend import OrtBackend
from lineside_runtime.devices import Device
from lineside_runtime.errors import LinesideError

X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)


def main() -> None:
    model, backend = Path(sys.argv[1]), OrtBackend()
    devices, fits = backend.probe(), backend.compatibility()
    refused: dict[str, Any] = {}
    try:
        backend.load(model, Device("gpu", handle="MIGraphXExecutionProvider?device_id=0"), LoadOptions())
    except LinesideError as error:
        refused = {"code": error.code, "text": str(error)}
    answer = backend.load(model, devices[0], LoadOptions(threads=1)).run({"x": X})["y"]
    told = {"devices": [one.handle for one in devices], "cpu": answer.tolist(), "gpu": refused}
    print(
        json.dumps(
            {
                **told,
                "available": onnxruntime.get_available_providers(),
                "fits": fits.fits,
                "advice": fits.advice,
            }
        )
    )


main()
