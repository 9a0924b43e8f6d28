"""Time a bundle's variants in turn, in a process of its own: an unproven bundle may crash its engine.

python -m lineside_agent.inspection.variant_timing FOLDER ROUNDS SHAPES INSPECT
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import msgspec

from lineside_agent.config import InspectConfig, engine_settings
from lineside_agent.deployment.child_process import FAILED, run_in_child
from lineside_agent.deployment.runner import ShouldStop
from lineside_agent.inspection.variant_selection import only
from lineside_link.messages import Shapes, VariantTimes
from lineside_runtime.backend import Executable
from lineside_runtime.benchmark.measurement.input_data import noise
from lineside_runtime.bundle import Bundle, Manifest, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BadInputFormatError, EngineError, LinesideError, NoDeviceError
from lineside_runtime.serving.candidates import choose
from lineside_runtime.tensors import Array
from lineside_runtime.timing import interleave

CALLS = 2
"""Timed calls of a turn."""

LEAST_ROUNDS = 3
LONG_S = 120.0
"""After so long `LEAST_ROUNDS` are enough, since the line shares the processor."""

VALUES_MAX = 1 << 26
"""Values of one input: a colour frame of 20 megapixels; a larger one would fill the memory."""

TIMEOUT_S = 900.0


def time_in_child(
    folder: Path, inspect: InspectConfig, rounds: int, shapes: Shapes, should_stop: ShouldStop
) -> tuple[VariantTimes, ...]:
    """Times the variants of a bundle in a process of its own, in ``rounds`` turns each."""
    result = run_in_child(
        "lineside_agent.inspection.variant_timing",
        [str(folder), str(rounds), *(msgspec.json.encode(value).decode() for value in (shapes, inspect))],
        what="the timing",
        timeout_s=TIMEOUT_S,
        should_stop=should_stop,
    )
    if result.failure:
        raise EngineError(result.failure, action="Correct what the message names; what runs there goes on running.")
    return decode_json(result.output, type=tuple[VariantTimes, ...])


def time_in_turn(bundle: Bundle, config: Config, rounds: int, shapes: Shapes = ()) -> tuple[VariantTimes, ...]:
    """Times the variants of a bundle in turn, so that other load of the device affects all of them.

    Args:
        rounds: Turns of each variant; fewer if they take very long.
        shapes: Shapes of the inputs by name, one dictionary a kind of frame; none: one frame by the manifest.

    Raises:
        BadInputFormatError: The bundle takes no input of such a shape, or it is too large.
        NoDeviceError: Nothing here runs any of them.
    """
    inputs = [_noise(bundle.manifest, one) for one in shapes or (None,)]
    reasons: dict[str, str] = {}
    loaded: dict[str, tuple[str, Executable]] = {}
    rounds_ms: dict[str, list[tuple[float, ...]]] = {}
    with contextlib.ExitStack() as stack:
        for variant in bundle.manifest.variants:
            alone = only(bundle, variant)
            try:
                candidate = choose(alone.manifest, config).at(0)
                if candidate is None:
                    raise NoDeviceError("nothing here runs it")
                executable = candidate.load(alone, config)
                stack.callback(executable.close)
                executable.run(inputs[0])
            except LinesideError as error:
                reasons[variant.name] = str(error)
            else:
                loaded[variant.name] = (str(candidate), executable)
                rounds_ms[variant.name] = []
        if not loaded:
            actual = "; ".join(f"{name}: {why}" for name, why in reasons.items())
            raise NoDeviceError(f"nothing here runs {bundle.manifest.identity}", actual=actual)
        started_s = time.monotonic()
        runs = {name: executable.run for name, (_, executable) in loaded.items()}
        on_each = (
            interleave({name: partial(run, one) for name, run in runs.items()}, calls_a_turn=CALLS) for one in inputs
        )
        for number, by_input in enumerate(itertools.islice(zip(*on_each, strict=True), rounds)):
            for name in loaded:
                rounds_ms[name].append(tuple(statistics.median(times_ms[name]) for times_ms in by_input))
            if number + 1 >= LEAST_ROUNDS and time.monotonic() - started_s > LONG_S:
                break
    return tuple(
        VariantTimes(variant=name, device=loaded[name][0], rounds_ms=tuple(rounds_ms[name]))
        if name in loaded
        else VariantTimes(variant=name, why=reasons[name])
        for name in (variant.name for variant in bundle.manifest.variants)
    )


def _noise(manifest: Manifest, shapes: dict[str, tuple[int, ...]] | None) -> dict[str, Array]:
    for name, shape in (shapes or {}).items():
        if any(size < 0 for size in shape) or math.prod(shape) > VALUES_MAX:
            raise BadInputFormatError(f"input {name!r}", expected=f"at most {VALUES_MAX} values", actual=list(shape))
    return noise(manifest, 1, shapes)


def main() -> int:
    """Times the bundle of the command line; only the times go to stdout, whatever an engine prints."""
    folder, rounds, shapes, inspect = sys.argv[1:]
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        try:
            settings = engine_settings(decode_json(inspect, type=InspectConfig))
            frames = decode_json(shapes, type=tuple[dict[str, tuple[int, ...]], ...])
            times = time_in_turn(open_bundle(folder), settings, int(rounds), frames)
        except LinesideError as error:
            sys.stderr.write(f"{error}\n")
            return FAILED
        out.write(msgspec.json.encode(times))
    return 0


if __name__ == "__main__":
    sys.exit(main())
