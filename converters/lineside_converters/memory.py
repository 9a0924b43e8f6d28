"""Peak memory: fresh processes that load a model as a user would and run it, one after the other."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
from pathlib import Path

import msgspec

from lineside_converters.proving import Made, Proof, Terms
from lineside_converters.trial import trial
from lineside_converters.voice import Voice
from lineside_runtime.benchmark.contestants import Contestant, Entry
from lineside_runtime.benchmark.process import Process
from lineside_runtime.benchmark.protocol import AskMemory, Held, Timed, Turn
from lineside_runtime.bundle import Bundle, Variant
from lineside_runtime.config import Config

RUNS = 3
CALLS = 20
_MB = 1 << 20


def measure_peaks(terms: Terms, proof: Proof, folder: Path, voice: Voice) -> Proof:
    """Returns the proof with the peak memory of the source model and of each form that may be shipped.

    Args:
        terms: What was proved, with the source model.
        proof: What was measured so far.
        folder: To put bundles together in.
        voice: Told what is measured.

    Raises:
        LinesideError: One can't be loaded in a process of its own.
    """
    source = Variant(name="source", format="onnx", file="source/model.onnx", level=0, precision="fp32")
    forms = [Made(variant=source, engine="ort", file=terms.source), *(one.made for one in proof.proved)]
    peaks = []
    for form in voice.through(forms, "memory"):
        place = folder / f"memory-{form.variant.name}"
        try:
            peaks.append(_peak(trial(place, terms, [_anywhere(form)]), form, terms))
        finally:
            shutil.rmtree(place, ignore_errors=True)
    before, *after = peaks
    return dataclasses.replace(
        proof,
        reference=msgspec.structs.replace(proof.reference, memory_bytes=before),
        proved=tuple(
            dataclasses.replace(one, figures=msgspec.structs.replace(one.figures, memory_bytes=peak))
            for one, peak in zip(proof.proved, after, strict=True)
        ),
    )


def _anywhere(form: Made) -> Made:
    return dataclasses.replace(form, variant=msgspec.structs.replace(form.variant, device_kinds=("npu", "gpu", "cpu")))


def _peak(bundle: Bundle, form: Made, terms: Terms) -> int | None:
    config = Config(engines=(form.engine,), threads=terms.target.threads)
    entry = Entry(form.variant.name, bundle, Contestant(bundle, config))
    peaks = []
    for _ in range(RUNS):
        with Process(entry) as process:
            process.ask(Turn(calls=CALLS), Timed)
            peaks.append(process.ask(AskMemory(), Held).peak_mb)
    known = [peak for peak in peaks if peak is not None]
    return round(statistics.median(known) * _MB) if known else None
