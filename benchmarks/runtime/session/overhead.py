"""What `Session.predict` costs over the bare engine.

Baseline, tiny model: ``onnxruntime.InferenceSession.run_with_iobinding`` with input and output bound once, same file
and options, in blocks of calls in turn. That leaves the caller the same output array each time; ours are new ones.

Baseline, EfficientNet-Lite0 and the shipped detector: ``InferenceSession.run`` of the very session that our executable
holds. Two sessions of one file differ by up to 2 % by where their memory lies, which is several times what is measured.
Who comes first changes from round to round; ``same_twice`` is what the method finds between the engine and itself.

A call's Python is cold after each run of a network (its weights take the processor's caches), which makes it several
times dearer than in the tiny model's loop: most of the share is that.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.inputs import networks
from benchmarks.smoke import scaled
from benchmarks.timing import spread
from lineside_models import zoo
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.session import OrtExecutable, session_options
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.serving.placement import Placement
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

BLOCKS = scaled(200, smoke=2)
CALLS_A_BLOCK = scaled(200, smoke=5)
ROUNDS = scaled(600, smoke=2)
WARM_UP = scaled(20, smoke=1)
ONE_THREAD = Config(threads=1, engines=("ort",))


def run() -> dict[str, Any]:
    """Measures a tiny model, EfficientNet-Lite0 INT8 and the shipped detector at its small size."""
    lite0 = _share(networks.bundle(networks.lite0_int8()), networks.frame())
    detector = _share(open_bundle(zoo.path("surface-12")), np.zeros((1, 1, 224, 224), np.float32))
    return {
        "baseline": "onnxruntime: run_with_iobinding bound once (tiny), run of the same InferenceSession (others)",
        **_tiny(),
        "overhead_share_lite0": lite0.pop("share"),
        "overhead_lite0": lite0,
        "overhead_share_detector": detector.pop("share"),
        "overhead_detector": detector,
    }


def _tiny() -> dict[str, Any]:
    x = np.ones((1, 4), np.float32)
    bare = onnxruntime.InferenceSession(
        str(networks.tiny()), session_options(LoadOptions(threads=1)), providers=["CPUExecutionProvider"]
    )
    binding = bare.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu")
    with Session(networks.bundle(networks.tiny()), ONE_THREAD) as session:
        calls: dict[str, Callable[[], object]] = {
            "session": lambda: session.predict(x),
            "run": lambda: bare.run(None, {"x": x}),
            "prebound": lambda: bare.run_with_iobinding(binding),
        }
        times_us: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(BLOCKS):
            for name, call in calls.items():
                times_us[name].append(_block_us(call))
    extra = [ours - theirs for ours, theirs in zip(times_us["session"], times_us["prebound"], strict=True)]
    return {
        "overhead_us_p50": round(statistics.median(extra), 2),
        "overhead_tiny_us": {name: spread(times) for name, times in times_us.items()},
    }


def _block_us(call: Callable[[], object]) -> float:
    """Returns the mean time of a call in a loop of them, in microseconds."""
    for _ in range(5):
        call()
    began_ns = time.perf_counter_ns()
    for _ in range(CALLS_A_BLOCK):
        call()
    return (time.perf_counter_ns() - began_ns) / 1e3 / CALLS_A_BLOCK


def _share(bundle: Bundle, tensor: Array) -> dict[str, Any]:
    name = bundle.manifest.inputs[0].name
    with Session(bundle, ONE_THREAD) as session:
        bare = _engine_of(session)
        calls: tuple[Callable[[], object], ...] = (
            lambda: session.predict(tensor),
            lambda: bare.run(None, {name: tensor}),
            lambda: bare.run(None, {name: tensor}),
        )
        times_ms: tuple[list[float], ...] = ([], [], [])
        for turn in range(ROUNDS + WARM_UP):
            for i in range(len(calls)):
                which = (turn + i) % len(calls)
                began_ns = time.perf_counter_ns()
                calls[which]()
                times_ms[which].append((time.perf_counter_ns() - began_ns) / 1e6)
    ours, theirs, again = (times[WARM_UP:] for times in times_ms)
    bare_ms = statistics.median(theirs + again)
    extra_ms = statistics.median(a - (b + c) / 2 for a, b, c in zip(ours, theirs, again, strict=True))
    return {
        "share": round(extra_ms / bare_ms, 5),
        "extra_us": round(extra_ms * 1e3, 1),
        "same_twice_us": round(statistics.median(b - c for b, c in zip(theirs, again, strict=True)) * 1e3, 1),
        "session_ms": spread(ours),
        "bare_ms": spread(theirs),
    }


def _engine_of(session: Session) -> Any:
    """Returns ONNX Runtime's own session below ours."""
    with session.pinned() as pinned:
        placement = pinned._serving.placement
    if not isinstance(placement, Placement):
        raise RuntimeError("the session runs in stages")
    slot = placement.pool.slots[0]
    if slot.executable is None:
        raise RuntimeError("the session has loaded nothing")
    with slot.executable.use() as executable:
        if not isinstance(executable, OrtExecutable):
            raise RuntimeError(f"not on ONNX Runtime but on {session.used_device}")
        return executable._session
