"""The speed gate on a device of the fleet: candidates are sent there and timed.

The device runs none of them on its line: it fetches a bundle that is signed to be timed only, times its variants in
turn, each where it would run it, and forgets it. What comes back takes the place of this machine's times.
"""

from __future__ import annotations

import dataclasses
import secrets
import shutil
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from lineside_converters.candidates import float_form
from lineside_converters.gates.checks import ROUNDS, Times, check_speed, ratio_of, unproven_speed_gate
from lineside_converters.gates.runner import (
    CandidateVariant,
    EvaluatedVariant,
    RejectedVariant,
    Terms,
    feed_per_shape,
    refuse,
)
from lineside_converters.gates.timing_bundle import trial
from lineside_converters.progress import ProgressReporter
from lineside_link.messages import Shapes, TimeAnswer, VariantTimes
from lineside_runtime.errors import ConvertError, LinesideError, NoDeviceError

SOURCE = "source-fp32"
VERSION_MOST = 48
"""Letters of the model's version that a trial's keeps, as versions may have 64."""


class DeviceTimer(Protocol):
    """A device that times bundles, such as `lineside_hub.fleet.device_timing.DeviceClock`.

    Attributes:
        device: Its name.
    """

    device: str

    def check(self) -> str:
        """Returns what the device is, or raises where it can't or may not time anything."""
        ...

    def time(self, bundle: Path, *, rounds: int, shapes: Shapes) -> TimeAnswer:
        """Returns the times of a bundle's variants, measured in turn, with inputs of each of the shapes."""
        ...


class RemoteTiming:
    """Asks a device for times, and puts the speed gate to them.

    Args:
        terms: What is proved.
        clock: The device.
        folder: Where the bundle that travels is put together.
        voice: Told what was found.

    Attributes:
        where: The device, for people.
        notes: What a reader has to know of the times.
    """

    def __init__(self, terms: Terms, clock: DeviceTimer, folder: Path, progress: ProgressReporter) -> None:
        self.where = clock.device
        self.notes: tuple[str, ...] = ()
        self._terms, self._clock, self._folder, self._voice = terms, clock, folder, progress

    def settle(
        self, proved: list[EvaluatedVariant], refused: list[RejectedVariant]
    ) -> tuple[Times | None, list[EvaluatedVariant]]:
        """Times forms on the device.

        Args:
            proved: What passed the other gates.
            refused: Takes what fails this one.

        Returns:
            The source model's times there, ``None`` if it doesn't run there, and what passed.

        Raises:
            LinesideError: The device doesn't answer, or couldn't.
        """
        if not proved:
            return None, proved
        self._voice.say(f"{self._clock.device} times {', '.join(one.candidate.variant.name for one in proved)}")
        frames = [{name: array.shape for name, array in feed.items()} for feed in feed_per_shape(self._terms)]
        bundle = self._bundle([one.candidate for one in proved])
        try:
            answer = self._clock.time(bundle, rounds=2 * ROUNDS, shapes=frames)
        finally:
            shutil.rmtree(bundle, ignore_errors=True)
        self.where = f"{self._clock.device} ({answer.board})" if answer.board else self._clock.device
        if answer.inspected:
            self.notes = (f"{self.where} inspected {answer.inspected} frames of its line while it timed",)
        found = {one.variant: one for one in answer.variants}
        names = (SOURCE, self._float.variant.name) if self._terms.recipe.quantizes else (SOURCE,)
        floats = [_times(found[name]) for name in names if name in found and found[name].rounds_ms]
        passed = [kept for one in proved if (kept := self._judge(one, found, floats, refused)) is not None]
        return floats[0] if floats else None, passed

    def _judge(
        self, one: EvaluatedVariant, found: dict[str, VariantTimes], floats: list[Times], refused: list[RejectedVariant]
    ) -> EvaluatedVariant | None:
        name, limit = one.candidate.variant.name, self._terms.recipe.max_slowdown
        there = found.get(name) or VariantTimes(variant=name, why="the device says nothing of it")
        error: LinesideError
        if not there.rounds_ms:
            error = NoDeviceError(f"{self.where} doesn't run {name}: {there.why}")
            refused.append(refuse(one.candidate, error))
            self._voice.say(f"{name}: left out: {error}")
            return None
        if not floats:  # then this machine's times stay, and the device finds out when it stages
            gate = unproven_speed_gate(f"float model that runs on {self.where}", max_slowdown=limit)
            return dataclasses.replace(one, gates=(*one.gates[:-1], gate))
        own, where = _times(there), f"{self.where}, {there.device}"
        figures = msgspec.structs.replace(one.figures, latency_ms=own.mean_of_medians_ms, latency_p95_ms=own.p95_ms)
        reference = min(floats, key=lambda times: times.mean_of_medians_ms)
        try:
            gate = check_speed(reference, own, max_slowdown=limit, where=where)
        except ConvertError as slow:
            refused.append(refuse(one.candidate, slow, own.mean_of_medians_ms))
            self._voice.say(f"{name}: left out: {slow}")
            return None
        self._voice.say(f"{name}: speed: {gate.detail}")
        return dataclasses.replace(
            one,
            figures=figures,
            gates=(*one.gates[:-1], gate),
            ratio=ratio_of(own, floats[0]),
            timed_on=where,
        )

    @property
    def _float(self) -> CandidateVariant:
        return float_form(self._terms)

    def _bundle(self, made: list[CandidateVariant]) -> Path:
        cleaned = self._float
        source = msgspec.structs.replace(cleaned.variant, name=SOURCE, file=f"{SOURCE}/model.onnx")
        forms = [*made, dataclasses.replace(cleaned, variant=source, file=self._terms.source)]
        if cleaned.variant.name not in {one.variant.name for one in made}:
            forms.append(cleaned)
        version = f"{self._terms.manifest.version[:VERSION_MOST]}-{secrets.token_hex(4)}"  # nobody else's trial
        return trial(self._folder / "trial", self._terms, forms, version=version).path


def _times(one: VariantTimes) -> Times:
    return Times(np.array(one.rounds_ms, np.float64))
