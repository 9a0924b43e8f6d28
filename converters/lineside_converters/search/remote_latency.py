"""Latency of a search's networks on a device of the fleet: many in one bundle, timed there in turn."""

from __future__ import annotations

import dataclasses
import math
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from torch import Tensor

from lineside_converters.candidate import CandidateVariant
from lineside_converters.context import Context
from lineside_converters.gates.timing_bundle import write_timing_bundle
from lineside_converters.search.input_size import shrunk, side_px
from lineside_link.messages import VariantTimes
from lineside_runtime.bundle import Manifest, Variant
from lineside_runtime.errors import NoDeviceError

ROUNDS = 8
VERSION = "0.0.0"


@dataclasses.dataclass(frozen=True, slots=True)
class TimedForm:
    """An INT8 network to time.

    Attributes:
        path: Its ONNX file.
        size: Share of the input's side that it takes.
    """

    path: Path
    size: float = 1.0


def time_on_device(
    context: Context, forms: Sequence[TimedForm], frames: Sequence[Tensor], *, rounds: int = ROUNDS
) -> list[float]:
    """Times networks on the device of the run's limits; those of one input size in turn, in one bundle.

    Args:
        context: Has the device, the manifest and a folder for the bundle.
        forms: At least one.
        frames: Whole inputs, one of each size that matters.
        rounds: Of each network.

    Returns:
        Milliseconds of a frame: geometric mean over the frames of the least times, as the device's line adds to others.

    Raises:
        NoDeviceError: The device doesn't run a network.
        BrokerError: It doesn't answer.
        TimingError: It may not or can't.
    """
    clock = context.limits.clock
    if clock is None:
        raise ValueError("no device times for this run")
    times_ms: dict[int, float] = {}
    for size in dict.fromkeys(form.size for form in forms):
        named = {f"form-{number}": number for number, form in enumerate(forms) if form.size == size}
        variants = [_variant(context, name, forms[number].path) for name, number in named.items()]
        folder = context.work.scratch("search-timing")
        bundle = write_timing_bundle(
            folder,
            _sized(context.manifest, size),
            variants,
            version=f"{VERSION}-{secrets.token_hex(4)}",  # no other bundle's
        )
        (name,) = (spec.name for spec in context.manifest.inputs)
        shapes = [{name: tuple(shrunk(frame, size).shape)} for frame in frames]
        context.progress.report(f"{clock.device} times {len(variants)} networks of the search")
        try:
            answer = clock.time(bundle.path, rounds=rounds, shapes=shapes)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        found = {one.variant: one for one in answer.variants}
        for variant, number in named.items():
            times_ms[number] = _least_ms(clock.device, found.get(variant) or VariantTimes(variant=variant))
    return [times_ms[number] for number in range(len(forms))]


def _variant(context: Context, name: str, path: Path) -> CandidateVariant:
    variant = Variant(
        name=name,
        format="onnx",
        file=f"{name}/model.onnx",
        level=context.level.level,
        precision="int8",
        device_kinds=("npu", "gpu", "cpu"),
    )
    return CandidateVariant(variant=variant, engine="ort", file=path)


def _sized(manifest: Manifest, size: float) -> Manifest:
    """Returns the manifest with its input's fixed sides scaled."""
    if size == 1:
        return manifest
    inputs = tuple(
        msgspec.structs.replace(
            spec,
            shape=(*spec.shape[:2], *(side if side < 0 else side_px(side, size) for side in spec.shape[2:])),
        )
        for spec in manifest.inputs
    )
    return msgspec.structs.replace(manifest, inputs=inputs)


def _least_ms(device: str, one: VariantTimes) -> float:
    if not one.rounds_ms:
        raise NoDeviceError(f"{device} doesn't run a network of the search: {one.why or 'it says nothing of it'}")
    return math.exp(float(np.log(np.asarray(one.rounds_ms).min(axis=0)).mean()))
