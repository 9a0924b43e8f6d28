"""The shipped detector: INT8 against its float parent, and what stands around the engine.

Baseline: the float parent through the same session, one thread, the same frames in turn.
"""

from __future__ import annotations

from typing import Any

from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, median_ratio, spread
from lineside_models import zoo
from lineside_models.postprocess import decode, least_wanted
from lineside_models.preprocess import prepare
from lineside_models.simulator import Kind, render
from lineside_runtime.config import Config
from lineside_runtime.session import Session

ROUNDS = scaled({"steel": 200, "pcb": 40}, smoke={"steel": 2, "pcb": 2})


def run() -> dict[str, Any]:
    """Measures both sizes."""
    config = Config(threads=1, engines=("ort",))
    with Session(zoo.path("surface-12"), config) as small, Session(zoo.path("surface-12-float"), config) as parent:
        return {
            "baseline": "surface-12-float, ORT, 1 thread",
            "sizes": {kind: _one_size(small, parent, kind) for kind in ("steel", "pcb")},
            "file_ratio": round(small.bundle.manifest.size_bytes / parent.bundle.manifest.size_bytes, 3),
        }


def _one_size(small: Session, parent: Session, kind: Kind) -> dict[str, Any]:
    manifest = small.manifest
    image = render(kind, 7).image
    tensor, letterbox = prepare(image, manifest.preprocess)
    outputs = small.predict(tensor)
    least = least_wanted(manifest.postprocess, len(manifest.labels))
    times = interleaved(
        {
            "int8_ms": lambda: small.predict(tensor),
            "float_ms": lambda: parent.predict(tensor),
            "preprocess_ms": lambda: prepare(image, manifest.preprocess),
            "decode_nms_ms": lambda: decode(outputs, manifest.postprocess, [letterbox], least_score=least),
        },
        rounds=ROUNDS[kind],
    )
    return {
        "input": list(tensor.shape),
        **{name: spread(values) for name, values in times.items()},
        "speedup_int8": round(median_ratio(times["float_ms"], times["int8_ms"]), 3),
    }
