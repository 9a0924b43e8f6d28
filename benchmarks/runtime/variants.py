"""Every variant of ``surface-12`` on every engine that runs it here: speed, accuracy and size.

Baseline: the float form of the same network (what its INT8 weights stand for) in ONNX Runtime. All rows are timed in
turn, one thread each, at the two sizes of input that the bundle is used with; times are processor time of the process,
which other work on the machine changes least. Accuracy is measured on the validation folds, at the bundle's own
thresholds; nothing is chosen by it.

``shipped`` rows are files of the bundle. The others are what the optimizer's makers write for the same network without
its choice of layers and ranges, calibrated on frames of the train folds.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.inputs.data import shared
from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, median_ratio, spread
from lineside_converters.data.calibration_data import annotated_frame, gather_inputs
from lineside_converters.evaluation import bundle_accuracy
from lineside_converters.evaluation.good_parts import templates
from lineside_converters.evaluation.part_verdicts import strengths
from lineside_converters.formats import ENGINES, MAKERS, ConversionRequest
from lineside_converters.gates.statistics import interval_of_map50
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.graph.dequantize import dequantize
from lineside_converters.graph.tensorrt_rules import write_conforming
from lineside_converters.levels import Activation
from lineside_converters.quantization.static import quantize
from lineside_models import zoo
from lineside_models.datasets import load_dataset
from lineside_models.datasets.base import evenly_spread
from lineside_models.metrics import evaluate
from lineside_models.postprocess import Candidates, thresholds_of
from lineside_models.preprocess import prepare
from lineside_models.simulator import Kind, render
from lineside_runtime import registry
from lineside_runtime.bundle import Bundle, Manifest, Variant, files_of, open_bundle, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.errors import LinesideError
from lineside_runtime.precision import Precision
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

BUNDLE, SOURCE = "surface-12", "onnx-int8"
SETS, FOLD = scaled(("neu-det", "deeppcb"), smoke=("deeppcb",)), "val"
ROUNDS: dict[Kind, int] = scaled({"steel": 100, "pcb": 40}, smoke={"pcb": 2})
CALIBRATION = scaled(64, smoke=2)
FRAMES = scaled(None, smoke=2)
"""At most so many frames of each fold."""

ACTIVATIONS: dict[str, Activation] = scaled(
    {"8-bit weights": "u8s8", "7-bit weights": "u8s7", "signed, zero points 0": "s8s8"}, smoke={"8-bit weights": "u8s8"}
)
"""What ONNX Runtime's quantizer writes for x86 with VNNI, for x86 without it, and for Arm and TensorRT."""

READERS = scaled(tuple(registry.names_by_preference()), smoke=("ort",))
"""Engines that run the shipped variants. In a smoke run one: `engines` loads and runs a network on each."""

CONVERTERS = scaled(tuple(maker for maker in MAKERS if maker.engine != "ort"), smoke=(MAKERS[2],))
"""In a smoke run one: the others are run by that of `engines`."""

BASELINE = "ort float"

SIGNED = "onnx-s8s8-mirrored"
PREPARED = f"ort {SIGNED}, as TensorRT's compiler gets it"
"""The form that is compiled on a Jetson; its accuracy in ONNX Runtime is the nearest that there is without one."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """One variant, alone in a bundle, and the engine that runs it."""

    engine: str
    bundle: Bundle
    shipped: bool


def run() -> dict[str, Any]:
    """Makes, loads, judges and times."""
    source = open_bundle(zoo.path(BUNDLE))
    rows: dict[str, dict[str, Any]] = {}
    sessions: dict[str, Session] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        made, left_out = _made(source, Path(name))
        for key, form in {**made, **_shipped(source)}.items():
            print(f"  {key} ...", file=sys.stderr, flush=True)
            try:
                session = stack.enter_context(Session(form.bundle, Config(threads=1, engines=(form.engine,))))
                rows[key] = _facts(form, session)
                sessions[key] = session
            except LinesideError as error:
                left_out[key] = str(error)
        for kind, rounds in ROUNDS.items():
            _time(kind, rounds, rows, sessions)
    return {
        "baseline": f"{BASELINE}: {SOURCE} of {source.manifest.identity} with its weights as floats, 1 thread, in turn",
        "bundle": source.manifest.identity,
        "fold": FOLD,
        "rows": rows,
        "left_out": left_out,
    }


def _shipped(source: Bundle) -> dict[str, _Form]:
    """Returns a row for each variant of the bundle and each engine here that reads it."""
    rows = {}
    for variant in source.manifest.variants:
        alone = Bundle(source.path, msgspec.structs.replace(source.manifest, variants=(variant,)), source.digest)
        for engine in READERS:
            if registry.may_read(engine, variant.format, "cpu") and registry.missing(engine) is None:
                rows[f"{engine} {variant.name}"] = _Form(engine, alone, shipped=True)
    return rows


def _made(source: Bundle, folder: Path) -> tuple[dict[str, _Form], dict[str, str]]:
    """Returns a row for each form that is made here, and why the others are not."""
    clean, manifest = folder / "clean.onnx", source.manifest
    dequantize(source.file(f"{SOURCE}/model.onnx"), folder / "float.onnx")
    clean_graph(folder / "float.onnx", clean)
    data = [shared(name) for name in SETS]
    feeds = gather_inputs(manifest, limit=CALIBRATION, data=data, fold="train").calibration
    rows = {BASELINE: _form("ort", "fp32", clean, manifest)}
    for name, activation in ACTIVATIONS.items():
        target = folder / f"{activation}.onnx"
        quantize(clean, target, feeds=feeds, activation=activation)
        rows[f"ort {name}"] = _form("ort", "int8", target, manifest)
    prepared = write_conforming(source.file(f"{SIGNED}/model.onnx"), folder / "prepared.onnx")
    rows[PREPARED] = _form("ort", "int8", prepared, manifest)
    request = ConversionRequest(clean=clean, int8=folder / "u8s8.onnx", manifest=manifest, feeds=feeds, folder=folder)
    left_out: dict[str, str] = {}
    for maker in CONVERTERS:
        key = f"{maker.engine} {maker.name.removeprefix(maker.engine).strip('-')} {maker.precision}"
        key = " ".join(key.split())
        if missing := maker.missing() or str(registry.missing(maker.engine) or ""):
            left_out[key] = missing
            continue
        own = folder / key.replace(" ", "-")
        own.mkdir()
        try:
            file = maker.make(dataclasses.replace(request, folder=own))
            rows[key] = _form(maker.engine, maker.precision, file, manifest)
        except LinesideError as error:
            left_out[key] = str(error)
    return rows, left_out


def _form(engine: str, precision: Precision, file: Path, manifest: Manifest) -> _Form:
    """Puts a file into a bundle of its own."""
    variant = Variant(
        name="only", format=ENGINES[engine].format, file=f"only/{file.name}", level=1, precision=precision
    )
    home = file.with_name(f"{file.name}.bundle")
    (home / "only").mkdir(parents=True)
    for name in files_of(variant.format, file.name):
        (home / "only" / name).write_bytes((file.parent / name).read_bytes())
    alone = msgspec.structs.replace(manifest, variants=(variant,), golden=None, files={})
    return _Form(engine, write_manifest(home, alone), shipped=False)


def _facts(form: _Form, session: Session) -> dict[str, Any]:
    """Returns the facts and accuracy of a row's variant."""
    (variant,) = form.bundle.manifest.variants
    files = [
        form.bundle.file(variant.file).with_name(Path(name).name) for name in files_of(variant.format, variant.file)
    ]
    return {
        "engine": form.engine,
        "version": registry.backend(form.engine).version,
        "precision": variant.precision,
        "shipped": form.shipped,
        "bytes": sum(path.stat().st_size for path in files),
        "sets": {name: _judged(session, shared(name)) for name in SETS},
    }


def _judged(session: Session, root: Path) -> dict[str, Any]:
    """Returns mAP, and how many bad and good parts are rejected, on the validation fold."""
    dataset = load_dataset(root, FOLD)
    labels = session.manifest.labels
    samples = evenly_spread(dataset.samples, FRAMES)
    frames = (annotated_frame(one, labels, number, dataset) for number, one in enumerate(samples))
    truths, runs = bundle_accuracy.find(session, frames)
    found = [each.candidates for each in runs]
    thresholds = thresholds_of(session.manifest.postprocess, len(labels)).astype(np.float64)
    low, high = interval_of_map50(truths, found, types=len(labels))
    bad = [each for truth, each in zip(truths, found, strict=True) if len(truth.labels)]
    good: list[Candidates] = []
    for parts in templates(root, dataset, FOLD, session.manifest):
        _, runs = bundle_accuracy.find(session, itertools.islice(parts.frames, FRAMES or parts.count))
        good += [each.candidates for each in runs]
    return {
        "frames": len(truths),
        "map50": round(evaluate(truths, found, labels=labels, thresholds=thresholds).map50, 4),
        "map50_interval": [round(low, 4), round(high, 4)],
        "bad_parts": len(bad),
        "bad_rejected": _rejected(bad, thresholds),
        "good_parts": len(good),
        "good_rejected": _rejected(good, thresholds),
    }


def _rejected(found: Sequence[Candidates], thresholds: npt.NDArray[np.float64]) -> int:
    return int((strengths(found, thresholds) >= 1.0).sum()) if found else 0


def _time(kind: Kind, rounds: int, rows: dict[str, dict[str, Any]], sessions: dict[str, Session]) -> None:
    """Times all rows in turn on a frame of the simulator."""
    manifest = next(iter(sessions.values())).manifest
    tensor, _ = prepare(render(kind, 7).image, manifest.preprocess)
    feed = {manifest.preprocess.input: tensor.astype(np.float32, copy=False)}
    times = interleaved(
        {key: _call(one, feed) for key, one in sessions.items()}, rounds=rounds, clock=time.process_time_ns
    )
    for key, row in rows.items():
        row[kind] = {
            "input": list(tensor.shape),
            "cpu_ms": spread(times[key]),
            "speedup": round(median_ratio(times[BASELINE], times[key]), 3),
        }


def _call(session: Session, feed: dict[str, Array]) -> Callable[[], object]:
    return lambda: session.predict(feed)
