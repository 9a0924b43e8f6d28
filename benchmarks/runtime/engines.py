"""Three networks on every engine that is installed here, in float and in INT8, one thread each.

Baseline: ONNX Runtime in float. Times are processor time of the process, which other work on the machine changes least.
The files are what the optimizer's makers write, without its choice of layers and ranges: ``correlation`` says how near
the answers are to the float network's, not how accurate a tuned bundle is. ResNet-50 has drawn weights, so that its
correlation says nothing of a trained one.

Where the processor has VNNI, all is made and measured again in a process whose engines see AVX2 alone
(`benchmarks.inputs.avx2`), with weights of 7 bits: what an x86 without VNNI gains by INT8.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.inputs import avx2, networks
from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, median_ratio, spread
from lineside_converters.formats import MAKERS, ConversionRequest, FormatMaker
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import Activation
from lineside_converters.quantization.static import quantize
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_runtime import registry
from lineside_runtime.backend import Executable, LoadOptions
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import LinesideError
from lineside_runtime.precision import FLOAT_PRECISIONS, Precision
from lineside_runtime.system.vnni import saturates
from lineside_runtime.tensors import Array

ROUNDS, CALIBRATION = scaled((100, 16), smoke=(2, 2))
FOREIGN = scaled(
    {"EfficientNet-Lite0": networks.lite0_float, "ResNet-50": networks.resnet50_float}, smoke={"small": networks.small}
)
SHIPPED = scaled(("surface-12-float",), smoke=())
BASELINE = "ort fp32"
ONNX_ENGINES = ("ort", "openvino")
"""Engines that run ONNX files."""
LITERT_FLOAT = dataclasses.replace(next(one for one in MAKERS if one.name == "litert-qdq"), precision="fp32")
"""Translates the float graph: what LiteRT's INT8 is compared with."""
FRESH = 4
"""Frames that correlation is measured on; nothing was calibrated on them."""


@dataclasses.dataclass(slots=True)
class _Row:
    executable: Executable
    facts: dict[str, Any]

    @property
    def is_float(self) -> bool:
        return self.facts["precision"] in FLOAT_PRECISIONS


def run() -> dict[str, Any]:
    """Converts, loads, compares and times each network."""
    return {
        "baseline": "ONNX Runtime in float, in turn, one thread each",
        "networks": _networks("u8s7" if saturates() else "u8s8"),
        "avx2": _seeing_avx2(),
    }


def _seeing_avx2() -> dict[str, Any]:
    """Measures the networks in a process whose engines see AVX2 alone."""
    if missing := "the processor has no VNNI: see networks" if saturates() else avx2.missing():
        return {"left_out": missing}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "networks.json")
        variables = os.environ | avx2.environment(Path(folder))
        command: list[str | Path] = [sys.executable, "-m", __name__, out]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"engines that see AVX2 alone: exit status {done.returncode}: {done.stderr[-2000:]}")
        return {"networks": json.loads(out.read_text())}


def _networks(activation: Activation) -> dict[str, Any]:
    sources = {
        **{name: open_bundle(zoo.path(name)) for name in SHIPPED},
        **{name: networks.bundle(file()) for name, file in FOREIGN.items()},
    }
    return {name: _on_every_engine(source, activation) for name, source in sources.items()}


def _on_every_engine(source: Bundle, activation: Activation) -> dict[str, Any]:
    feeds = [_feed(source, seed) for seed in range(CALIBRATION + FRESH)]
    rows: dict[str, _Row] = {}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        clean, int8 = Path(folder, "clean.onnx"), Path(folder, "int8.onnx")
        clean_graph(source.file(source.manifest.variants[0].file), clean)
        quantize(clean, int8, feeds=feeds[:CALIBRATION], activation=activation)
        request = ConversionRequest(
            clean=clean,
            int8=int8,
            manifest=source.manifest,
            feeds=feeds[:CALIBRATION],
            activation=activation,
            folder=Path(folder),
        )
        makers: dict[str, Callable[[], _Row]] = {
            f"{engine} fp32": partial(_load, engine, "fp32", clean, source) for engine in ONNX_ENGINES
        }
        for maker in (*MAKERS, LITERT_FLOAT):
            name = f"{maker.engine} {maker.name}-{maker.precision}"
            missing = maker.missing() or str(registry.missing(maker.engine) or "")
            if missing or maker.kinds == ("gpu",):
                left_out[name] = missing or "for GPUs"
            else:
                makers[name] = partial(_made, maker, request, name, source)
        if depthwise := _depthwise(clean):
            partly = Path(folder, "partly.onnx")
            quantize(clean, partly, feeds=request.feeds, activation=activation, exclude=depthwise)
            for engine in ONNX_ENGINES:
                makers[f"{engine} onnx-int8, depthwise in float"] = partial(_load, engine, "int8", partly, source)
        for name, make in makers.items():
            try:
                rows[name] = make()
                _compare(rows[name], rows[BASELINE], feeds[CALIBRATION:])
            except LinesideError as error:  # noqa: PERF203  a few forms, once each
                left_out[name] = str(error)
                if failed := rows.pop(name, None):
                    failed.executable.close()
        times = interleaved(
            {name: _call(row, feeds[0]) for name, row in rows.items()}, rounds=ROUNDS, clock=time.process_time_ns
        )
    for name, row in rows.items():
        row.facts |= {"cpu_ms": spread(times[name]), "speedup": round(median_ratio(times[BASELINE], times[name]), 3)}
        own = next((one for one in rows if rows[one].is_float and one.split()[0] == name.split()[0]), None)
        if own and not row.is_float:
            row.facts["speedup_over_own_float"] = round(median_ratio(times[own], times[name]), 3)
        row.executable.close()
    return {
        "input": list(next(iter(feeds[0].values())).shape),
        "rows": {name: row.facts for name, row in rows.items()},
        "left_out": left_out,
    }


def _depthwise(model: Path) -> list[str]:
    """Returns the names of a graph's convolutions of one channel each."""
    graph = onnx.load(model).graph
    channels = {each.name: each.dims[1] for each in graph.initializer if len(each.dims) == 4}
    return [
        node.name
        for node in graph.node
        if node.op_type == "Conv"
        and channels.get(node.input[1]) == 1
        and any(each.name == "group" and each.i > 1 for each in node.attribute)
    ]


def _feed(bundle: Bundle, seed: int) -> dict[str, Array]:
    tensor, _ = prepare(render("steel", seed).image, bundle.manifest.preprocess)
    return {bundle.manifest.inputs[0].name: tensor.astype(np.float32, copy=False)}


def _made(maker: FormatMaker, request: ConversionRequest, name: str, source: Bundle) -> _Row:
    folder = request.folder / name.replace(" ", "-")
    folder.mkdir()
    int8 = request.clean if maker is LITERT_FLOAT else request.int8
    file = maker.make(dataclasses.replace(request, folder=folder, int8=int8))
    return _load(maker.engine, maker.precision, file, source)


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
    Path(sys.argv[1]).write_text(json.dumps(_networks("u8s7")))
