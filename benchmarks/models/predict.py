"""`ImageInspector.predict` on a folder of JPEGs against the roofline of this machine.

Baseline: the roofline, which is cores ÷ the summed processor time a frame of the stages run bare, one thread: reading
and decoding the JPEG, resizing, normalising, ONNX Runtime alone, decoding with suppression. Stages and predict take
turns on the same files, and the figures are medians of the rounds' ratios. ONNX Runtime has the options that ours has:
on an x86 without VNNI its default kernels cut sums off (ADR 0014), and wrong answers are no roofline.

- ``share_of_roofline``: frames a second of predict ÷ the roofline. Needs a machine that does nothing else.
- ``processor_share``: processor time of the bare stages ÷ processor time of predict, a frame each: what predict spends
  beside them. Also true where others use the machine.
- ``cores_had``: cores that predict had in the mean; ``share_of_roofline`` can't be more than that ÷ ``cores``.
- ``side_by_side_share``: like ``share_of_roofline``, but against the stages run bare on all cores at once: cores that
  share caches and memory slow each other down, whoever runs on them.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import onnxruntime

from benchmarks.smoke import scaled
from benchmarks.timing import spread
from lineside_models import preprocess, zoo
from lineside_models.postprocess import decode, least_wanted
from lineside_models.simulator import Kind, render
from lineside_models.vision import ImageInspector
from lineside_models.vision.images import read_image
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.session import session_options
from lineside_runtime.bundle import Manifest, open_bundle

FILES = scaled(1000, smoke=20)
DRAWN = scaled(100, smoke=4)
"""Different pictures among the files: the simulator draws slower than the detector looks."""

ROUNDS = scaled(5, smoke=1)
BARE_FRAMES = scaled(100, smoke=2)
STAGES = ("read_ms", "prepare_ms", "engine_ms", "decode_nms_ms")
BUNDLE = "surface-12"


def run() -> dict[str, Any]:
    """Measures strip and boards."""
    return {"baseline": "cores / summed processor time of the stages run bare", "kinds": _kinds()}


def _kinds() -> dict[str, Any]:
    found = {}
    for kind, files in (("steel", FILES), ("pcb", FILES // 10)):
        with tempfile.TemporaryDirectory() as folder:
            paths = _write(Path(folder), "steel" if kind == "steel" else "pcb", files)
            found[kind] = _measure(paths, Path(folder))
    return found


def _write(folder: Path, kind: Kind, files: int) -> list[Path]:
    pictures = (render(kind, seed).image for seed in range(min(DRAWN, files)))
    jpegs = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
    paths = [folder / f"{number:04d}.jpg" for number in range(files)]
    for number, path in enumerate(paths):
        path.write_bytes(jpegs[number % len(jpegs)])
    return paths


class _Bare:
    """The stages, one after the other, with nothing around them."""

    def __init__(self) -> None:
        bundle = open_bundle(zoo.path(BUNDLE))
        self.manifest: Manifest = bundle.manifest
        model = str(bundle.path / self.manifest.variants[0].file)
        options = session_options(LoadOptions(threads=1))
        self.engine = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.engine.get_outputs()]
        self.least = least_wanted(self.manifest.postprocess, len(self.manifest.labels))

    def frame(self, path: Path) -> tuple[float, ...]:
        """Returns milliseconds of processor time of each stage."""
        marks = [time.thread_time_ns()]
        image = read_image(path)
        marks.append(time.thread_time_ns())
        tensor, letterbox = preprocess.prepare(image, self.manifest.preprocess)
        marks.append(time.thread_time_ns())
        given = {self.manifest.preprocess.input: tensor}
        outputs = dict(zip(self.names, self.engine.run(self.names, given), strict=True))
        marks.append(time.thread_time_ns())
        decode(outputs, self.manifest.postprocess, [letterbox], least_score=self.least)
        marks.append(time.thread_time_ns())
        return tuple((end - start) / 1e6 for start, end in itertools.pairwise(marks))


def _measure(paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    bare, cores = _Bare(), len(os.sched_getaffinity(0))
    rows: dict[str, list[float]] = {}
    with ImageInspector(zoo.path(BUNDLE), confidence_threshold=None) as inspector:
        inspector.predict(paths[: 16 * cores])
        for turn in range(ROUNDS):
            sample = [paths[(turn * BARE_FRAMES + number) % len(paths)] for number in range(BARE_FRAMES)]
            stages = [statistics.fmean(each) for each in zip(*map(bare.frame, sample), strict=True)]
            with ThreadPoolExecutor(cores) as pool:
                beside_ms = statistics.fmean(sum(each) for each in pool.map(bare.frame, sample))
            used_s, began_s = time.process_time(), time.perf_counter()
            verdicts = inspector.predict(folder)
            wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - used_s
            row = dict(zip(STAGES, stages, strict=True))
            row["frames_s"] = len(verdicts) / wall_s
            row["roofline_s"] = cores / sum(stages) * 1e3
            row["share_of_roofline"] = row["frames_s"] / row["roofline_s"]
            row["side_by_side_share"] = row["frames_s"] * beside_ms / cores / 1e3
            row["processor_share"] = sum(stages) / (cpu_s * 1e3 / len(verdicts))
            row["cores_had"] = cpu_s / wall_s
            for name, value in row.items():
                rows.setdefault(name, []).append(value)
    figures = {name: spread(values) if len(values) > 1 else values[0] for name, values in rows.items()}
    return {"files": len(paths), "cores": cores, "rounds": ROUNDS, **figures}
