"""Peak memory and throughput, measured in fresh processes.

Memory is measured one process after the other, with the largest frame. For throughput all are there at once and work
in turn, each with as many callers as the engine's calls leave cores for, with a frame of each shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from lineside_converters.candidate import Candidate, CandidateVariant
from lineside_converters.context import Context
from lineside_converters.gates.checks import Feed
from lineside_converters.gates.runner import feed_per_shape
from lineside_converters.gates.timing_bundle import write_timing_bundle
from lineside_runtime.benchmark.measurement.contestants import Contestant, ContestantEntry
from lineside_runtime.benchmark.measurement.process import Process
from lineside_runtime.benchmark.measurement.protocol import AskMemory, MemoryUse, Turn, TurnTimed, WarmUp, WarmUpResult
from lineside_runtime.bundle import Variant
from lineside_runtime.config import Config

RUNS = 3
CALLS = 20
_MB = 1 << 20

TURNS = 5
TURN_S = 0.4
TURN_CALLS = (8, 400)
"""Least and most calls of a turn, of each caller."""


def measure_processes(candidate: Candidate, context: Context) -> Candidate:
    """Adds peak memory and throughput of the source model and of each variant that may be shipped."""
    evaluation, folder, progress = candidate.evaluated, context.work.folder, context.progress
    source = Variant(name="source", format="onnx", file="source/model.onnx", level=0, precision="fp32")
    variants = [
        CandidateVariant(variant=source, engine="ort", file=context.source.model),
        *(one.candidate for one in evaluation.accepted),
    ]
    places = [folder / f"alone-{one.variant.name}" for one in variants]
    feeds = feed_per_shape(context)
    inputs = [_saved(folder / f"alone-{number}.npz", feed) for number, feed in enumerate(feeds)]
    largest = max(zip(inputs, feeds, strict=True), key=lambda one: sum(array.size for array in one[1].values()))[0]
    try:
        entries = [_entry(place, one, context) for place, one in zip(places, variants, strict=True)]
        peaks = [_peak(entry, largest) for entry in progress.through(entries, "memory")]
        by_input = [_rates(entries, path, context.target.threads) for path in progress.through(inputs, "throughput")]
    finally:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
        for path in inputs:
            path.unlink(missing_ok=True)
    rates = [statistics.harmonic_mean(of_one) for of_one in zip(*by_input, strict=True)]
    figures = [evaluation.reference, *(one.figures for one in evaluation.accepted)]
    before, *after = [
        msgspec.structs.replace(one, memory_bytes=peak, throughput_fps=rate)
        for one, peak, rate in zip(figures, peaks, rates, strict=True)
    ]
    accepted = tuple(dataclasses.replace(one, figures=new) for one, new in zip(evaluation.accepted, after, strict=True))
    return dataclasses.replace(
        candidate, evaluation=dataclasses.replace(evaluation, reference=before, accepted=accepted)
    )


def _entry(folder: Path, one: CandidateVariant, context: Context) -> ContestantEntry:
    anywhere = msgspec.structs.replace(one.variant, device_kinds=("npu", "gpu", "cpu"))
    bundle = write_timing_bundle(folder, context.manifest, [dataclasses.replace(one, variant=anywhere)])
    config = Config(engines=(one.engine,), threads=context.target.threads)
    return ContestantEntry(one.variant.name, bundle, Contestant(bundle, config))


def _saved(path: Path, feed: Feed) -> Path:
    np.savez(path, **feed)  # type: ignore[arg-type]  # numpy types its allow_pickle into the arrays
    return path


def _peak(entry: ContestantEntry, inputs: Path) -> int | None:
    peaks = []
    for _ in range(RUNS):
        with Process(entry, inputs) as process:
            process.ask(Turn(calls=CALLS), TurnTimed)
            peaks.append(process.ask(AskMemory(), MemoryUse).peak_mb)
    known = [peak for peak in peaks if peak is not None]
    return round(statistics.median(known) * _MB) if known else None


def _rates(entries: Sequence[ContestantEntry], inputs: Path, threads: int) -> list[float]:
    """Returns frames a second of each with one input, the median of its turns."""
    callers = max(1, len(os.sched_getaffinity(0)) // threads)
    several = [
        dataclasses.replace(one, contestant=dataclasses.replace(one.contestant, streams=callers)) for one in entries
    ]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Process(one, inputs)) for one in several]
        warmed = [process.ask(WarmUp(), WarmUpResult) for process in processes]
        least, most = TURN_CALLS
        calls = [callers * min(most, max(least, round(1e3 * TURN_S / one.call_ms))) for one in warmed]
        found: list[list[float]] = [[] for _ in processes]
        for turn in range(TURNS):
            order = range(len(processes)) if turn % 2 else reversed(range(len(processes)))
            for number in order:
                timed = processes[number].ask(Turn(calls=calls[number]), TurnTimed)
                found[number].append(len(timed.times_ms) / timed.wall_s)
    return [statistics.median(each) for each in found]
