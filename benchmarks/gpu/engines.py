"""Steps of the engines: devices, conformance, latency of ResNet-50 in three precisions, results kept on the GPU."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.forms import Forms, resnet50, small
from benchmarks.gpu.steps import Case, Figures, LeftOut, StepError
from benchmarks.inputs import networks
from benchmarks.smoke import SMOKE
from benchmarks.timing import spread
from lineside.cli import main as lineside
from lineside_runtime import registry
from lineside_runtime.backend import LoadOptions
from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.config import Config
from lineside_runtime.conformance import FOLDER, NETWORKS, ConformanceNetwork
from lineside_runtime.devices import Device
from lineside_runtime.errors import LinesideError
from lineside_runtime.precision import Precision
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

LEAST_CORRELATION: Mapping[Precision, float] = {"fp32": 0.999, "fp16": 0.999, "int8": 0.9}
"""Of a form's outputs with those of the float network on the CPU."""

WARM_UP, CALLS, MOST_S = 20, 300, 20.0
CACHE_CALLS = 50
ONE_CHECK = "it computes what the network says"
"""What conformance is asked for where there is no GPU."""

BATCHES = (1, 4, 64)
"""Least, usual and largest batch of the plans that conformance runs."""


def devices(case: Case) -> Figures:
    """Runs ``lineside devices``; every engine's import and probe is part of it."""
    found = _json_of("devices", "--timeout", "60")[1]
    engines = found["engines"]
    if case.gpus and not any(device["kind"] == "gpu" for engine in engines for device in engine["devices"]):
        raise StepError("no engine finds the GPU", found)
    return {"engines": engines, "accelerators": found["accelerators"]}


def forms(_: Case) -> Figures:
    """Makes the three precisions of ResNet-50."""
    made = _forms()
    return {
        "bytes": {precision: path.stat().st_size for precision, path in made.files.items()},
        "macs": networks.macs(made.files["fp32"]),
    }


def conformance(case: Case, *, engine: str) -> Figures:
    """Runs ``lineside conformance`` on each GPU of an engine."""
    _expect_engine(engine)
    names = [str(device) for device in registry.backend(engine).probe() if device.kind == "gpu" and not device.emulated]
    if not case.gpus:
        if engine == "tensorrt":
            raise LeftOut("a plan is compiled on the GPU that runs it")
        return {"cpu:0": _conformance(engine, "cpu:0", "--only", ONE_CHECK)}
    if not names:
        raise LeftOut(f"{engine} finds no GPU")
    more: list[str] = []
    if engine == "tensorrt":
        plans = case.folder / "plans"
        plans.mkdir()
        for network in NETWORKS:
            _plan_of(network, plans)
        more = ["--models", str(plans)]
    found = {name: _conformance(engine, name, *more) for name in names}
    wrong = [f"{name}: {each['failed']} failed" for name, each in found.items() if each["failed"] or each["error"]]
    if wrong:
        raise StepError("; ".join(wrong), found)
    return found


def latency(case: Case, *, engine: str, provider: str = "") -> Figures:
    """Times the three precisions of ResNet-50 on one engine, batch 1, host to host, and compares the outputs.

    Args:
        engine: Of `registry.names`.
        provider: Execution provider of ONNX Runtime.
    """
    made = _forms()
    device = _device_of(engine, provider, gpu=bool(case.gpus))
    right = _answers(made.files["fp32"], made, "ort", _device_of("ort", "", gpu=False), "fp32")
    found: Figures = {"device": device.name, "batch": 1}
    for precision in made.files:
        try:
            found[precision] = _timed(case, made, engine, device, precision, right)
        except Exception as error:  # noqa: BLE001, PERF203  # the other precisions are measured all the same
            found[precision] = {"failed": f"{type(error).__name__}: {error}"}
    wrong = {name: each["failed"] for name, each in found.items() if isinstance(each, dict) and "failed" in each}
    if wrong:
        raise StepError("; ".join(f"{name}: {reason}" for name, reason in wrong.items()), found)
    return found


def device_cache(case: Case, *, engine: str) -> Figures:
    """Asks a session twice for the same frame, with no cache but the GPU's memory (level L1)."""
    _expect_engine(engine)
    made = small()
    feed = dict(made.feeds[0])
    cache = CacheConfig(memory_bytes=0, device_bytes=64 << 20)
    with Session(made.bundle, Config(engines=(engine,), gpu_ratio=1.0, cache=cache)) as session:
        first = session.infer(feed)
        second = session.infer(feed)
        hit_ms = [_milliseconds(lambda: session.infer(feed)) for _ in range(CACHE_CALLS)]
        stats = session.cache_stats
    if stats is None:
        raise StepError("the session has no cache", {})
    (level,) = (each for each in stats.levels if each.name == "device")
    found: Figures = {
        "device": first.used_device,
        "cached": second.cached,
        **({"model_ms": round(first.inference_ms, 4), "hit_ms": spread(hit_ms)} if case.gpus else {}),
        "hits": level.hits,
        "entries": level.entries,
        "used_bytes": level.used_bytes,
        "reason": level.reason,
    }
    if not case.gpus:
        if level.hits or "no memory of its own" not in level.reason:
            raise StepError("a CPU has no memory of its own, and the level says otherwise", found)
        return found
    if second.cached != "device" or not level.used_bytes:
        raise StepError("the second call was not answered from the GPU's memory", found)
    for name, array in first.outputs.items():
        if not np.array_equal(array, second.outputs[name]):
            raise StepError(f"output {name!r} came back changed", found)
    return found


def _forms() -> Forms:
    return small() if SMOKE else resnet50()


def _timed(case: Case, made: Forms, engine: str, device: Device, precision: Precision, right: Array) -> Figures:
    began_s = time.perf_counter()
    model = made.files[precision]
    if engine == "tensorrt":
        if precision == "fp32":
            return {"left_out": "the converter compiles FP16 and INT8"}
        from lineside_converters.formats import tensorrt

        folder = case.folder / f"tensorrt-{precision}"
        folder.mkdir()
        model = tensorrt.make(made.request(precision, folder))
    compiled_s = time.perf_counter() - began_s
    options = _options(made, device, precision)
    executable = registry.backend(engine).load(model, device, options)
    loaded_s = time.perf_counter() - began_s - compiled_s
    try:
        feed = made.feeds[0]
        answer = next(iter(executable.run(feed).values()))
        correlation = float(np.corrcoef(answer.ravel().astype(np.float64), right.ravel().astype(np.float64))[0, 1])
        times = _times(lambda: executable.run(feed)) if case.gpus else []
        shortfall = getattr(executable, "shortfall", None)
    finally:
        executable.close()
    found = {
        **({"ms": spread(times), "load_s": round(loaded_s, 2)} if times else {}),
        "correlation": round(correlation, 6),
        **({"compile_s": round(compiled_s, 2)} if engine == "tensorrt" else {}),
        **({"on_the_cpu": str(shortfall)} if shortfall else {}),
    }
    if not correlation >= LEAST_CORRELATION[precision]:
        found["failed"] = f"correlation with the float network {correlation:.4f}"
    return found


def _answers(model: Path, made: Forms, engine: str, device: Device, precision: Precision) -> Array:
    executable = registry.backend(engine).load(model, device, _options(made, device, precision))
    try:
        answer: Array = next(iter(executable.run(made.feeds[0]).values()))
    finally:
        executable.close()
    return answer


def _options(made: Forms, device: Device, precision: Precision) -> LoadOptions:
    manifest = made.manifest
    threads = 2 if device.kind == "cpu" else None
    return LoadOptions(threads=threads, precision=precision, inputs=manifest.inputs, outputs=manifest.outputs)


def _device_of(engine: str, provider: str, *, gpu: bool) -> Device:
    """Returns the first GPU of an engine, or its CPU."""
    _expect_engine(engine)
    found = [
        device
        for device in registry.backend(engine).probe()
        if device.kind == ("gpu" if gpu else "cpu") and (not gpu or device.handle.startswith(provider))
    ]
    if not found:
        raise LeftOut(f"{engine} finds no device of {provider or 'its own'}")
    return found[0]


def _expect_engine(engine: str) -> None:
    absent = registry.missing(engine)
    if absent is not None:
        raise LeftOut(str(absent))


def _conformance(engine: str, device: str, *more: str) -> Figures:
    code, found = _json_of("conformance", engine, "--device", device, *more)
    if "error" in found:
        return {"passed": 0, "failed": [], "error": found["error"]}
    (report,) = found["reports"]
    outcomes = report["outcomes"]
    return {
        "passed": sum(each["verdict"] == "passed" for each in outcomes),
        "failed": [f"{each['check']}: {each['detail']}" for each in outcomes if each["verdict"] == "failed"],
        "not_applicable": sum(each["verdict"] == "not applicable" for each in outcomes),
        "error": "" if code == 0 or not found["conforms"] else f"exit status {code}",
    }


def _json_of(*words: str) -> tuple[int, Any]:
    """Runs a command of ``lineside`` in this process; returns its exit status and what it prints as JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = lineside([*words, "--json"])
    return code, json.loads(output.getvalue())


def _plan_of(network: ConformanceNetwork, folder: Path) -> None:
    """Compiles a conformance network in its own precision, without FP16."""
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    definition = builder.create_network(0)
    parser = tensorrt.OnnxParser(definition, logger)
    if not parser.parse((FOLDER / f"{network.name}.onnx").read_bytes()):
        raise LinesideError(f"TensorRT can't read {network.name}.onnx: {parser.get_error(0)}")
    config = builder.create_builder_config()
    if network.precision == "int8" and hasattr(tensorrt.BuilderFlag, "INT8"):
        config.set_flag(tensorrt.BuilderFlag.INT8)
    free = [spec for spec in network.inputs if spec.shape[0] < 0]
    if free:
        profile = builder.create_optimization_profile()
        for spec in free:
            profile.set_shape(spec.name, *((batch, *spec.shape[1:]) for batch in BATCHES))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(definition, config)
    if plan is None:
        raise LinesideError(f"TensorRT can't compile {network.name}.onnx")
    (folder / f"{network.name}.plan").write_bytes(bytes(plan))


def _times(call: Callable[[], object]) -> list[float]:
    """Returns milliseconds of each call; ends early where calls are slow."""
    for _ in range(WARM_UP):
        call()
    ends_s = time.monotonic() + MOST_S
    times: list[float] = []
    while len(times) < CALLS and (len(times) < 2 or time.monotonic() < ends_s):
        times.append(_milliseconds(call))
    return times


def _milliseconds(call: Callable[[], object]) -> float:
    began_ns = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began_ns) / 1e6
