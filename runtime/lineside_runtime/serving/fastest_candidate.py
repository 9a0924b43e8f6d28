"""Measure which candidate is fastest on this machine."""

from __future__ import annotations

import statistics
import threading
from functools import partial

from lineside_runtime.backend import Executable
from lineside_runtime.bundle import Bundle, sample_inputs
from lineside_runtime.config import Config
from lineside_runtime.errors import DeviceError, UnsupportedModelError
from lineside_runtime.logs import log
from lineside_runtime.serving.candidates import CandidateChoice, PlacementCandidate
from lineside_runtime.tensors import Array
from lineside_runtime.timing import time_calls

WARM_CALLS = 2
TIMED_CALLS = 5

_lock = threading.Lock()
_measured_ms: dict[tuple[object, ...], float] = {}


def order_by_speed(bundle: Bundle, choice: CandidateChoice, config: Config) -> CandidateChoice:
    """Returns the same candidates, fastest first; those that fail come last.

    Each is loaded, called a few times with zeros and closed again; what was measured is kept for the process.
    """
    candidates = choice.candidates
    times_ms = [_time_ms(bundle, candidate, config) for candidate in candidates]
    ranked = sorted(range(len(times_ms)), key=times_ms.__getitem__)
    return choice.reordered(candidates[i] for i in ranked)


def _time_ms(bundle: Bundle, candidate: PlacementCandidate, config: Config) -> float:
    key = (bundle.digest, str(candidate), candidate.variant.name, config.threads, config.cores)
    with _lock:  # one at a time, or they would measure one another
        if key not in _measured_ms:
            _measured_ms[key] = _measure(bundle, candidate, config)
            log.info("%s: %s takes %.2f ms", bundle.manifest.identity, candidate, _measured_ms[key])
        return _measured_ms[key]


def _measure(bundle: Bundle, candidate: PlacementCandidate, config: Config) -> float:
    executable: Executable | None = None
    try:
        executable = candidate.load(bundle, config)
        return median_ms(executable, sample_inputs(bundle.manifest))
    except (DeviceError, UnsupportedModelError) as error:
        log.warning("%s cannot be measured: %s", candidate, error)
        return float("inf")
    finally:
        if executable is not None:
            executable.close()


def median_ms(executable: Executable, inputs: dict[str, Array]) -> float:
    """Returns the median time of a warm call in milliseconds."""
    return statistics.median(time_calls(partial(executable.run, inputs), range(TIMED_CALLS), untimed=WARM_CALLS))
