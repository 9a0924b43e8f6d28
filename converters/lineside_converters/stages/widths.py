"""Make the INT8 forms of narrower networks that were trained together with the model."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lineside_converters.candidate import (
    FALLBACK_ENGINE,
    Candidate,
    CandidateVariant,
    NarrowVariant,
    RejectedVariant,
    SourceModel,
)
from lineside_converters.context import Context
from lineside_converters.gates.checks import time_together
from lineside_converters.gates.loaded_models import execution_place, open_model
from lineside_converters.gates.runner import choose_timed, run_gates
from lineside_converters.graph.shared_weights import WEIGHTS, align_weights, store_together
from lineside_converters.stages.clean import clean
from lineside_converters.stages.convert import convert_for
from lineside_converters.stages.quantize import quantize
from lineside_runtime.errors import ConvertError

NAME = "onnx-int8"
"""Variant of the widest network that the narrower ones share weights with."""

MAX_SLOWDOWN = 1.5
"""Largest share of its own float model's time: a narrow network's speed is compared with the wider ones' instead."""


def widths(candidate: Candidate, context: Context) -> Candidate:
    """Quantizes each narrower network, gives it the widest one's integers, and runs the gates on it.

    A narrower network that fails is left out with the reason, and on the target itself one that is no faster than a
    wider one. Levels other than 1 change the widest network, so that there is nothing to share.
    """
    if context.level.level != 1 or candidate.int8 is None:
        return candidate
    found = [_narrow(width, graph, candidate, context) for width, graph in context.source.narrower.items()]
    passed = [one for one in found if isinstance(one, NarrowVariant)]
    if not passed:
        return _with(candidate, (), [one for one in found if isinstance(one, RejectedVariant)])
    times_ms = _times(candidate.int8, passed, context)
    kept: list[NarrowVariant] = []
    rejected = [one for one in found if isinstance(one, RejectedVariant)]
    slowest = times_ms[NAME]
    for one in passed:
        name = one.evaluated.candidate.variant.name
        if times_ms[name] < slowest or not context.target.here:
            slowest = times_ms[name]
            kept.append(dataclasses.replace(one, speedup=times_ms[NAME] / slowest))
            continue
        why = f"no faster than a wider network: {times_ms[name]:.2f} ms, against {slowest:.2f} ms"
        context.progress.report(f"{name}: left out: {why}")
        rejected.append(RejectedVariant.of(one.evaluated.candidate, why, times_ms[name]))
    return _with(candidate, kept, rejected)


def _with(candidate: Candidate, kept: Sequence[NarrowVariant], rejected: Sequence[RejectedVariant]) -> Candidate:
    evaluation = dataclasses.replace(candidate.evaluated, rejected=(*candidate.evaluated.rejected, *rejected))
    return dataclasses.replace(candidate, evaluation=evaluation, narrower=tuple(kept))


def _times(widest: Path, narrower: Sequence[NarrowVariant], context: Context) -> dict[str, float]:
    """Returns the milliseconds of a frame of all widths in ONNX Runtime by their names, measured in turn."""
    place, threads = execution_place(FALLBACK_ENGINE, "cpu"), context.target.threads
    files = {NAME: widest} | {one.evaluated.candidate.variant.name: one.evaluated.candidate.file for one in narrower}
    with contextlib.ExitStack() as stack:
        runs = {
            name: stack.enter_context(open_model(file, place, context.manifest, precision="int8", threads=threads))
            for name, file in files.items()
        }
        times = time_together(runs, choose_timed(context.inputs.calibration))
    return {name: times[name].mean_of_medians_ms for name in files}


def _narrow(width: float, graph: Path, candidate: Candidate, context: Context) -> NarrowVariant | RejectedVariant:
    name = f"{NAME}-{width:g}"
    own = dataclasses.replace(
        context,
        source=SourceModel.of(graph, context.source.manifest),
        level=dataclasses.replace(context.level, max_slowdown=MAX_SLOWDOWN),
        limits=dataclasses.replace(context.limits, min_speedup=1.0, clock=None),
    )
    made = quantize(clean(Candidate(model=graph), own), own)
    if made.int8 is None or candidate.int8 is None:
        raise RuntimeError("level 1 quantizes")
    folder = context.work.scratch(f"width-{width:g}")
    folder.mkdir(exist_ok=True)
    shared = align_weights(made.int8, candidate.int8, folder / "int8.onnx")
    context.progress.report(f"{name}: {shared} weights are the widest network's")
    aligned = dataclasses.replace(made, int8=folder / "int8.onnx")
    forms = [each for each in convert_for(FALLBACK_ENGINE, aligned, own) if isinstance(each, CandidateVariant)]
    variants = tuple(
        dataclasses.replace(
            form,
            variant=msgspec.structs.replace(form.variant, name=name, file=f"{NAME}/width-{width:g}.onnx", width=width),
        )
        for form in forms
        if form.variant.name == NAME
    )
    try:
        evaluated = run_gates(dataclasses.replace(aligned, variants=variants), own).accepted[0]
    except ConvertError as error:
        return RejectedVariant.of(variants[0], error)
    return NarrowVariant(
        evaluated=evaluated, width=width, metric=None if evaluated.drop is None else evaluated.drop.after
    )


def with_narrower(variants: list[CandidateVariant], candidate: Candidate, context: Context) -> list[CandidateVariant]:
    """Returns the variants that ship, the narrower ones last, with the ONNX forms of all widths in one folder.

    They share one file of weights.
    """
    passed = [one.candidate for one in candidate.evaluated.accepted]
    widest = [one for one in passed if one.variant.name == NAME]
    narrower = [one.evaluated.candidate for one in candidate.narrower]
    together = [*widest, *narrower]
    folder = context.work.scratch("widths")
    folder.mkdir(exist_ok=True)
    written = store_together({Path(one.variant.file).name: one.file for one in together}, folder)
    stored = [
        dataclasses.replace(
            one,
            file=written[Path(one.variant.file).name],
            variant=msgspec.structs.replace(one.variant, weights=f"{NAME}/{WEIGHTS}", width=one.variant.width or 1.0),
        )
        for one in together
    ]
    by_name = {one.variant.name: one for one in stored}
    return [
        *(by_name.pop(one.variant.name, one) for one in variants),
        *(one for one in stored if one.variant.name in by_name),
    ]
