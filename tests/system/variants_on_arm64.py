"""What `test_arm64_engines.py` runs, once here and once under emulation: prints one JSON object.

Each ONNX variant of the shipped INT8 detectors on an input, as both machines must have the very same one.

python variants_on_arm64.py INPUT.npy
"""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import cv2
import numpy as np
import onnxruntime

from lineside import Config, Session
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_runtime.bundle import open_bundle

DETECTORS = ("surface-12", "surface-starter")


def figures(given_file: str) -> dict[str, Any]:
    """Returns what this machine makes of an input, ready for JSON."""
    bundle = open_bundle(zoo.path("surface-12"))
    golden = bundle.manifest.golden
    if golden is None:
        raise SystemExit("the bundle has no golden frame")
    frame = cv2.imread(str(bundle.file(golden.frame)))
    if frame is None:
        raise SystemExit("the golden frame cannot be read")
    encoded, jpeg = cv2.imencode(".jpg", frame)
    tensor, _ = prepare(frame, bundle.manifest.preprocess)
    given = np.load(given_file)
    outputs = {}
    for detector in map(open_bundle, map(zoo.path, DETECTORS)):
        for name in (one.name for one in detector.manifest.variants if one.format == "onnx"):
            with Session(detector.path, Config(engines=("ort",), threads=1, variant=name)) as session:
                found = session.predict({detector.manifest.preprocess.input: given})
            outputs[f"{detector.manifest.name} {name}"] = {
                output: np.array(value, np.float64) for output, value in found.items()
            }
    decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR) if encoded else None
    return {
        "machine": platform.machine(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "versions": {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__, "cv2": cv2.__version__},
        "jpeg_mean": round(float(decoded.mean()), 3) if decoded is not None else None,
        "input_mean": float(tensor.mean()),
        "outputs": {
            variant: {name: value.ravel()[::7].round(4).tolist() for name, value in found.items()}
            for variant, found in outputs.items()
        },
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(figures(sys.argv[1])) + "\n")
