"""Tries our ONNX Runtime backend on the providers of the environment that runs this; prints one JSON object.

    python ort_provider.py WHOLE.onnx PART.onnx PREFIX ABSENT

PREFIX is how the names of the devices begin that are tried, ABSENT the handle of a device that is not here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.backend import OrtBackend
from lineside_runtime.devices import Device
from lineside_runtime.errors import LinesideError

X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)


def attempt(backend: OrtBackend, model: Path, device: Device, **options: Any) -> dict[str, Any]:
    try:
        executable = backend.load(model, device, LoadOptions(threads=1, **options))
        answer = executable.run({"x": X})["y"]
        executable.close()
    except LinesideError as error:
        return {"code": error.code, "text": str(error)}
    return {"answer": answer.tolist(), "shortfall": str(executable.shortfall or "")}


def main() -> None:
    whole, part, prefix, absent = sys.argv[1:]
    backend = OrtBackend()
    devices = backend.probe()
    tried = {
        device.handle: {
            "device": str(device),
            "name": device.name,
            "whole": attempt(backend, Path(whole), device),
            "part": attempt(backend, Path(part), device),
            "refused": attempt(backend, Path(part), device, whole=True),
        }
        for device in devices
        if device.name.startswith(prefix)
    }
    fits = backend.compatibility()
    print(
        json.dumps(
            {
                "devices": [device.handle for device in devices],
                "tried": tried,
                "missing": attempt(backend, Path(whole), Device("gpu", handle=absent)),
                "versions": dict(fits.versions),
                "fits": fits.fits,
                "advice": fits.advice,
            }
        )
    )


main()
