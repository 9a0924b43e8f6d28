"""Three networks on every engine that is installed here, in float and in INT8, one thread each.

Baseline: ONNX Runtime in float. Times are processor time of the process, which other work on the machine changes least.
The files are what the optimizer's makers write, without its choice of layers and ranges: ``correlation`` says how near
the answers are to the float network's, not how accurate a tuned bundle is. ResNet-50 has drawn weights, so that its
correlation says nothing of a trained one.

OpenVINO's kernels are oneDNN's, which can be held to AVX2 by a variable of the environment: what an x86 without VNNI
gains by INT8, measured where there is VNNI. Its own small kernels, such as reorders, are not held. No other engine has
such a variable.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import networks
from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, median_ratio, spread
from lineside_converters.formats import MAKERS, ConversionRequest, FormatMaker
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.quantization.static import quantize
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_runtime import registry
from lineside_runtime.backend import Executable, LoadOptions
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import LinesideError
from lineside_runtime.precision import Precision
from lineside_runtime.system.vnni import saturates
from lineside_runtime.tensors import Array

ROUNDS, CALIBRATION = scaled((100, 16), smoke=(2, 2))
FOREIGN = scaled(
    {"EfficientNet-Lite0": networks.lite0_float, "ResNet-50": networks.resnet50_float}, smoke={"small": networks.small}
)
SHIPPED = scaled(("surface-12-float",), smoke=())
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Of oneDNN: https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html"""
FRESH = 4
"""Frames that correlation is measured on; nothing was calibrated on them."""


@dataclasses.dataclass(slots=True)
class _Row:
    executable: Executable
    facts: dict[str, Any]


def run() -> dict[str, Any]:
    """Converts, loads, compares and times each network."""
    sources = {
        **{name: open_bundle(zoo.path(name)) for name in SHIPPED},
        **{name: networks.bundle(file()) for name, file in FOREIGN.items()},
    }
    seeds = range(CALIBRATION + FRESH)
    networks_of = {
        name: _on_every_engine(source, [_feed(source, seed) for seed in seeds]) for name, source in sources.items()
    }
    held = {name: network.pop("openvino_avx2") for name, network in networks_of.items()}
    return {
        "baseline": "ONNX Runtime in float, in turn, one thread each",
        "networks": networks_of,
        "openvino_avx2": {name: row for name, row in held.items() if row is not None},
    }


def _on_every_engine(source: Bundle, feeds: list[dict[str, Array]]) -> dict[str, Any]:
    rows: dict[str, _Row] = {}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        clean, int8 = Path(folder, "clean.onnx"), Path(folder, "int8.onnx")
        clean_graph(source.file(source.manifest.variants[0].file), clean)
        quantize(clean, int8, feeds=feeds[:CALIBRATION], activation="u8s7" if saturates() else "u8s8")
        request = ConversionRequest(
            clean=clean,
            int8=int8,
            manifest=source.manifest,
            feeds=feeds[:CALIBRATION],
            folder=Path(folder),
        )
        rows["ort fp32"] = _load("ort", "fp32", request.clean, source)
        _compare(rows["ort fp32"], rows["ort fp32"], feeds[CALIBRATION:])
        for maker in MAKERS:
            name = f"{maker.engine} {maker.name}-{maker.precision}"
            missing = maker.missing() or str(registry.missing(maker.engine) or "")
            if missing or maker.kinds == ("gpu",):
                left_out[name] = missing or "for GPUs"
                continue
            try:
                rows[name] = _made(maker, request, name, source)
                _compare(rows[name], rows["ort fp32"], feeds[CALIBRATION:])
            except LinesideError as error:
                left_out[name] = str(error)
                if failed := rows.pop(name, None):
                    failed.executable.close()
        times = interleaved(
            {name: _call(row, feeds[0]) for name, row in rows.items()}, rounds=ROUNDS, clock=time.process_time_ns
        )
        held = _held_to_avx2(request, source) if platform.machine() == "x86_64" else None
    for name, row in rows.items():
        row.facts |= {"cpu_ms": spread(times[name]), "speedup": round(median_ratio(times["ort fp32"], times[name]), 3)}
        row.executable.close()
    return {
        "input": list(next(iter(feeds[0].values())).shape),
        "rows": {name: row.facts for name, row in rows.items()},
        "openvino_avx2": held,
        "left_out": left_out,
    }


def _held_to_avx2(request: ConversionRequest, source: Bundle) -> dict[str, Any]:
    """Times OpenVINO in float and in INT8 with weights of 7 bits, in a process whose kernels are held to AVX2."""
    int8 = request.folder / "avx2.onnx"
    quantize(request.clean, int8, feeds=request.feeds, activation="u8s7")
    feed = request.folder / "feed.npz"
    np.savez(feed, **request.feeds[0])  # type: ignore[arg-type]  # names of inputs are keywords here
    command: list[str | Path] = [sys.executable, "-m", __name__, source.path, request.clean, int8, feed]
    done = subprocess.run(command, env=os.environ | AVX2, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"OpenVINO held to AVX2: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def _timed_in_openvino(bundle: str, clean: str, int8: str, feed: str) -> dict[str, Any]:
    """Returns the processor time of both files in OpenVINO, in turn, and how much faster INT8 is."""
    source, frame = open_bundle(bundle), dict(np.load(feed))
    rows = {
        "fp32": _load("openvino", "fp32", Path(clean), source),
        "int8": _load("openvino", "int8", Path(int8), source),
    }
    times = interleaved(
        {name: _call(row, frame) for name, row in rows.items()}, rounds=ROUNDS, clock=time.process_time_ns
    )
    ratio = round(median_ratio(times["fp32"], times["int8"]), 3)
    return {**{f"{name}_cpu_ms": spread(found) for name, found in times.items()}, "speedup": ratio}


def _feed(bundle: Bundle, seed: int) -> dict[str, Array]:
    tensor, _ = prepare(render("steel", seed).image, bundle.manifest.preprocess)
    return {bundle.manifest.inputs[0].name: tensor.astype(np.float32, copy=False)}


def _made(maker: FormatMaker, request: ConversionRequest, name: str, source: Bundle) -> _Row:
    folder = request.folder / name.replace(" ", "-")
    folder.mkdir()
    return _load(maker.engine, maker.precision, maker.make(dataclasses.replace(request, folder=folder)), source)


def _load(engine: str, precision: Precision, file: Path, source: Bundle) -> _Row:
    backend = registry.backend(engine)
    device = next(one for one in backend.probe() if one.kind == "cpu")
    options = LoadOptions(
        threads=1, precision=precision, inputs=source.manifest.inputs, outputs=source.manifest.outputs
    )
    size = sum(path.stat().st_size for path in file.parent.glob(f"{file.stem}.*"))
    facts = {"engine": engine, "version": backend.version, "precision": precision, "bytes": size}
    return _Row(backend.load(file, device, options), facts)


def _call(row: _Row, feed: dict[str, Array]) -> Callable[[], object]:
    return lambda: row.executable.run(feed)


def _compare(row: _Row, floats: _Row, feeds: list[dict[str, Array]]) -> None:
    """Adds the least correlation of an output with the float network's."""
    pairs = []
    for feed in feeds:
        wanted, answer = floats.executable.run(feed), row.executable.run(feed)
        pairs += [(wanted[name], answer[name]) for name in wanted]
    row.facts["correlation"] = round(min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs), 5)


if __name__ == "__main__":
    print(json.dumps(_timed_in_openvino(*sys.argv[1:])))
