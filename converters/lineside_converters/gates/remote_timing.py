"""The speed gate on a device of the fleet: variants are sent there and timed.

The device runs none of them on its line: it fetches a bundle that is signed to be timed only, times its variants in
turn, each where it would run it, and deletes it. What comes back takes the place of this machine's times.
"""

from __future__ import annotations

import dataclasses
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from lineside_converters.candidate import Candidate, CandidateVariant, EvaluatedVariant, RejectedVariant
from lineside_converters.context import Context
from lineside_converters.gates.checks import ROUNDS, Times, check_speed, max_ratio, ratio_of, unproven_speed_gate
from lineside_converters.gates.runner import feed_per_shape
from lineside_converters.gates.timing_bundle import write_timing_bundle
from lineside_converters.options import DeviceTimer
from lineside_link.messages import VariantTimes
from lineside_runtime.errors import ConvertError, LinesideError, NoDeviceError

SOURCE = "source-fp32"
VERSION_MOST = 48
"""Letters of the model's version that a timing bundle's keeps, as versions may have 64."""


class RemoteTiming:
    """Asks a device for times, and puts the speed gate to them.

    Attributes:
        where: The device, for people.
        notes: What a reader has to know of the times.
    """

    def __init__(self, candidate: Candidate, context: Context, timer: DeviceTimer) -> None:
        self.where = timer.device
        self.notes: tuple[str, ...] = ()
        self._context, self._timer = context, timer
        self._float = candidate.float_variant(context.target.kind)

    def judge(
        self, accepted: Sequence[EvaluatedVariant], rejected: list[RejectedVariant]
    ) -> tuple[Times | None, list[EvaluatedVariant]]:
        """Times variants on the device."""
        if not accepted:
            return None, []
        names = ", ".join(one.candidate.variant.name for one in accepted)
        self._context.progress.report(f"{self._timer.device} times {names}")
        shapes = [{name: array.shape for name, array in feed.items()} for feed in feed_per_shape(self._context)]
        bundle = self._write_bundle([one.candidate for one in accepted])
        try:
            answer = self._timer.time(bundle, rounds=2 * ROUNDS, shapes=shapes)
        finally:
            shutil.rmtree(bundle, ignore_errors=True)
        self.where = f"{self._timer.device} ({answer.board})" if answer.board else self._timer.device
        if answer.inspected:
            self.notes = (f"{self.where} inspected {answer.inspected} frames of its line while it timed",)
        found = {one.variant: one for one in answer.variants}
        floats = (SOURCE, self._float.variant.name) if self._context.level.quantizes else (SOURCE,)
        references = [_times(found[name]) for name in floats if name in found and found[name].rounds_ms]
        passed = [kept for one in accepted if (kept := self._judge_one(one, found, references, rejected)) is not None]
        return references[0] if references else None, passed

    def _judge_one(
        self,
        one: EvaluatedVariant,
        found: dict[str, VariantTimes],
        references: list[Times],
        rejected: list[RejectedVariant],
    ) -> EvaluatedVariant | None:
        name = one.candidate.variant.name
        limit = max_ratio(self._context.level, self._context.limits.min_speedup, one.drop)
        there = found.get(name) or VariantTimes(variant=name, why="the device says nothing of it")
        if not there.rounds_ms:
            self._reject(one, NoDeviceError(f"{self.where} doesn't run {name}: {there.why}"), None, rejected)
            return None
        if not references:  # then this machine's times stay, and the device finds out when it stages
            gate = unproven_speed_gate(f"float model that runs on {self.where}", max_slowdown=limit)
            return dataclasses.replace(one, gates=(*one.gates[:-1], gate))
        own, where = _times(there), f"{self.where}, {there.device}"
        fastest = min(references, key=lambda times: times.mean_of_medians_ms)
        try:
            gate = check_speed(fastest, own, max_slowdown=limit, where=where, drop=one.drop)
        except ConvertError as slow:
            self._reject(one, slow, own.mean_of_medians_ms, rejected)
            return None
        self._context.progress.report(f"{name}: speed: {gate.detail}")
        return dataclasses.replace(
            one,
            figures=msgspec.structs.replace(one.figures, latency_ms=own.mean_of_medians_ms, latency_p95_ms=own.p95_ms),
            gates=(*one.gates[:-1], gate),
            ratio=ratio_of(own, references[0]),
            timed_on=where,
        )

    def _reject(
        self,
        one: EvaluatedVariant,
        error: LinesideError,
        latency_ms: float | None,
        rejected: list[RejectedVariant],
    ) -> None:
        rejected.append(RejectedVariant.of(one.candidate, error, latency_ms))
        self._context.progress.report(f"{one.candidate.variant.name}: left out: {error}")

    def _write_bundle(self, candidates: list[CandidateVariant]) -> Path:
        context, cleaned = self._context, self._float
        source = msgspec.structs.replace(cleaned.variant, name=SOURCE, file=f"{SOURCE}/model.onnx")
        variants = [*candidates, dataclasses.replace(cleaned, variant=source, file=context.source.model)]
        if cleaned.variant.name not in {one.variant.name for one in candidates}:
            variants.append(cleaned)
        version = f"{context.manifest.version[:VERSION_MOST]}-{secrets.token_hex(4)}"  # no other run's bundle
        return write_timing_bundle(context.work.scratch("trial"), context.manifest, variants, version=version).path


def _times(one: VariantTimes) -> Times:
    return Times(np.array(one.rounds_ms, np.float64))
