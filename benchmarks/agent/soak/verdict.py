"""Whether memory and handles stayed flat: medians of the first and the last tenth of the samples after the warm-up."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

WARM_UP = 0.2
"""Share of the samples: caches, pools and the store's bounds are reached in it."""

DRIFT_MAX = 0.02
MEMORY = ("rss_bytes", "pss_bytes", "anonymous_bytes")
SAMPLES_LEAST = 20


def judge(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Judges a run.

    What shrinks is no leak: only growth counts. PSS is told and not judged, as it changes with whoever else maps the
    same libraries.

    Args:
        samples: As `sampler` prints them, in their order.

    Returns:
        Figures, and under ``problems`` what was not flat.

    Raises:
        ValueError: There are too few samples.
    """
    warm = samples[int(WARM_UP * len(samples)) :]
    if len(warm) < SAMPLES_LEAST:
        raise ValueError(f"{len(warm)} samples after the warm-up say nothing; expected at least {SAMPLES_LEAST}")
    tenth = len(warm) // 10
    first, last = warm[:tenth], warm[-tenth:]
    found: dict[str, Any] = {}
    problems = []
    for name in MEMORY:
        before, after = _median(first, name), _median(last, name)
        drift = after / before - 1
        found[name] = {"after_warm_up": round(before), "at_the_end": round(after), "drift": round(drift, 5)}
        if drift > DRIFT_MAX and name != "pss_bytes":
            problems.append(f"{name} grew by {100 * drift:.2f} %, more than {100 * DRIFT_MAX:g} %")
    for name in ("handles", "threads"):
        before, after = _median(first, name), _median(last, name)
        found[name] = {"after_warm_up": before, "at_the_end": after, "most": max(sample[name] for sample in warm)}
        if after > before:
            problems.append(f"{name} grew from {before:g} to {after:g}")
    whole_s = samples[-1]["at_s"] - samples[0]["at_s"]
    frames = samples[-1]["frames"] - samples[0]["frames"]
    return {
        "seconds": whole_s,
        "samples": len(samples),
        "frames": frames,
        "frames_a_second": round(frames / whole_s, 2),
        "processor_share": round((samples[-1]["processor_s"] - samples[0]["processor_s"]) / whole_s, 3),
        **found,
        "problems": problems,
    }


def _median(samples: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(statistics.median(sample[name] for sample in samples))
