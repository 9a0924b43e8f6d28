"""The shipped detector's network on every engine that is installed here, in float and in INT8, one thread each.

Baseline: ONNX Runtime in float. The files are what the optimizer's makers write, without its choice of layers and
ranges: ``correlation`` says how near the answers are to the float network's, not how accurate a tuned bundle is.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, median_ratio, spread
from lineside_converters.formats import MAKERS, ConversionRequest, FormatMaker
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_runtime import registry
from lineside_runtime.backend import Executable, LoadOptions
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.precision import Precision
from lineside_runtime.tensors import Array

ROUNDS, CALIBRATION = scaled((100, 16), smoke=(2, 2))
FRESH = 4
"""Frames that correlation is measured on; nothing was calibrated on them."""


@dataclasses.dataclass(slots=True)
class _Row:
    executable: Executable
    facts: dict[str, Any]


def run() -> dict[str, Any]:
    """Converts, loads, compares and times."""
    source = open_bundle(zoo.path("surface-12-float"))
    feeds = [_feed(source, seed) for seed in range(CALIBRATION + FRESH)]
    rows: dict[str, _Row] = {}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(shutil.copy(source.file(source.manifest.variants[0].file), folder))  # pnnx writes beside it
        request = ConversionRequest(
            clean=clean,
            int8=_int8(),
            manifest=source.manifest,
            feeds=feeds[:CALIBRATION],
            folder=Path(folder),
        )
        rows["ort fp32"] = _load("ort", "fp32", request.clean, source)
        for maker in MAKERS:
            name = f"{maker.engine} {maker.name}-{maker.precision}"
            missing = maker.missing() or str(registry.missing(maker.engine) or "")
            if missing or maker.kinds == ("gpu",):
                left_out[name] = missing or "for GPUs"
            else:
                rows[name] = _made(maker, request, name, source)
        _compare(rows, feeds[CALIBRATION:])
        times = interleaved({name: _call(row, feeds[0]) for name, row in rows.items()}, rounds=ROUNDS)
    for name, row in rows.items():
        row.facts |= {"ms": spread(times[name]), "speedup": round(median_ratio(times["ort fp32"], times[name]), 3)}
        row.executable.close()
    return {
        "baseline": "ONNX Runtime in float, in turn, one thread each",
        "input": list(next(iter(feeds[0].values())).shape),
        "rows": {name: row.facts for name, row in rows.items()},
        "left_out": left_out,
    }


def _int8() -> Path:
    shipped = open_bundle(zoo.path("surface-12"))
    return next(shipped.file(one.file) for one in shipped.manifest.variants if one.precision == "int8")


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
    size = sum(path.stat().st_size for path in file.parent.glob(f"{file.stem}.*")) if precision == "int8" else None
    facts = {"engine": engine, "version": backend.version, "precision": precision, "bytes": size}
    return _Row(backend.load(file, device, options), facts)


def _call(row: _Row, feed: dict[str, Array]) -> Callable[[], object]:
    return lambda: row.executable.run(feed)


def _compare(rows: dict[str, _Row], feeds: list[dict[str, Array]]) -> None:
    """Adds the least correlation of an output with the float network's."""
    wanted = [rows["ort fp32"].executable.run(feed) for feed in feeds]
    for row in rows.values():
        answers = [row.executable.run(feed) for feed in feeds]
        pairs = [(one[name], other[name]) for one, other in zip(wanted, answers, strict=True) for name in one]
        row.facts["correlation"] = round(min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs), 5)
