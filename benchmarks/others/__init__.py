"""lineside against other runtimes: ``ultralytics`` and ``openvino-model-api``, each in an environment of its own.

From a frame to its finds: resize, normalise, run, decode, suppress. The same network, the same frame, one core and one
thread each; whole processes, interleaved; a ratio below 1 means that ours takes less. That all do the same work is
checked on the answers: the same boxes, or the same class.

Baselines: ``ultralytics`` predict on its ONNX export (its engine is ONNX Runtime); ``openvino-model-api``'s wrapper on
OpenVINO's form of the same file, in f32. Ours is `QualityInspector` on a bundle of the same file, on ONNX Runtime, and
for the second also on OpenVINO (``…_same_engine…``). Memory is the resident set after `contest.ALONE_CALLS`
calls of a process that is alone; the peak is beside it. ``…_floor_…`` is a bare ONNX Runtime with OpenCV before it and
nothing behind it, against the same baseline: what no runtime in Python that uses these two can go below.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.others import contest, networks
from benchmarks.others.environments import versions_of
from benchmarks.smoke import SMOKE
from benchmarks.timing import median_ratio, spread

_VERSIONS = {
    "ultralytics": ("ultralytics", "torch", "onnxruntime"),
    "model-api": ("openvino-model-api", "openvino"),
}


def run() -> dict[str, Any]:
    """Measures both networks."""
    if SMOKE:
        return _smoke()
    detector, classifier = networks.yolov8n(), networks.lite0()
    print(f"  {detector.name} ...", file=sys.stderr, flush=True)
    yolo = contest.measure(detector, contest.detectors(detector))
    print(f"  {classifier.name} ...", file=sys.stderr, flush=True)
    lite0 = contest.measure(classifier, contest.classifiers(classifier))
    return {
        "baseline": "ultralytics predict on its ONNX export; openvino-model-api's wrapper on OpenVINO's form of it",
        "networks": {one.name: {"macs": one.macs} for one in (detector, classifier)},
        "versions": {name: versions_of(name, packages) for name, packages in _VERSIONS.items()},
        "threads": 1,
        **_ratios("ultralytics", yolo, "ultralytics", "lineside_ort"),
        **_ratios("model_api", lite0, "model_api", "lineside_ort"),
        **_ratios("model_api_same_engine", lite0, "model_api", "lineside_openvino"),
        **_ratios("model_api_yolov8n", yolo, "model_api", "lineside_ort"),
        **_ratios("model_api_yolov8n_same_engine", yolo, "model_api", "lineside_openvino"),
        "model_api_memory_floor_ratio": _memory_ratio(lite0, "bare_ort", "model_api"),
        "model_api_yolov8n_memory_floor_ratio": _memory_ratio(yolo, "bare_ort", "model_api"),
        "ultralytics_memory_floor_ratio": _memory_ratio(yolo, "bare_ort", "ultralytics"),
        "yolov8n": {name: _figures(facts) for name, facts in yolo.items()},
        "lite0_int8": {name: _figures(facts) for name, facts in lite0.items()},
    }


def _smoke() -> dict[str, Any]:
    """Runs what needs no other environment."""
    network = networks.lite0()
    found = contest.measure(network, contest.ours(network))
    return {
        **_ratios("bare", found, "bare_ort", "lineside_ort"),
        "lite0_int8": {name: _figures(facts) for name, facts in found.items()},
        "left_out": "ultralytics and openvino-model-api, which need environments of their own",
    }


def _ratios(key: str, found: dict[str, dict[str, Any]], theirs: str, ours: str) -> dict[str, Any]:
    a, b = found[ours], found[theirs]
    return {
        f"{key}_latency_ratio": round(median_ratio(a["turns_ms"], b["turns_ms"]), 3),
        f"{key}_memory_ratio": _memory_ratio(found, ours, theirs),
        f"{key}_peak_memory_ratio": round(median_ratio(a["peak_mb"], b["peak_mb"]), 3),
        f"{key}_start_ratio": round(median_ratio(a["first_ms"], b["first_ms"]), 3),
        f"{key}_same_answer": round(_alike(a["answer"], b["answer"]), 3),
    }


def _memory_ratio(found: dict[str, dict[str, Any]], of: str, to: str) -> float:
    return round(median_ratio(found[of]["resident_mb"], found[to]["resident_mb"]), 3)


def _figures(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "latency_ms": spread(facts["turns_ms"]),
        "start_ms": spread(facts["first_ms"]),
        "resident_mb": spread(facts["resident_mb"]),
        "peak_mb": spread(facts["peak_mb"]),
        "finds": len(facts["answer"]),
    }


def _alike(ours: Sequence[list[float]], theirs: Sequence[list[float]]) -> float:
    """Returns the share of all finds that both have: same class, score within 0.05, corners within 2 pixels."""
    left = list(theirs)
    same = 0
    for one in ours:
        match = next((other for other in left if _same(one, other)), None)
        if match is not None:
            left.remove(match)
            same += 1
    return same / max(len(ours), len(theirs), 1)


def _same(one: list[float], other: list[float]) -> bool:
    near = all(abs(a - b) <= 2 for a, b in zip(one[2:], other[2:], strict=True))
    return one[0] == other[0] and abs(one[1] - other[1]) <= 0.05 and near
