"""The verdict on whole parts: escapes and false rejects of the shipped detector on boards.

Thresholds are chosen for a tolerated share of false rejects on all boards of the train fold but one and judged on that
one, in turn (nine boards). The shipped thresholds are judged on the validation fold. The network was trained on the
train fold of the same boards, and these show three to twelve defects a place: `types` counts each type on each place as
if it alone made the board bad. `calibration` says of steel frames and boards how often a score is right under a
calibration that was fitted on other parts.

Baseline: the thresholds with the best F1 of types, which were shipped until 2.1.0.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.inputs.data import shared
from benchmarks.smoke import scaled
from lineside_converters.evaluation import EvaluationRequest, judge
from lineside_converters.evaluation.detector import DetectorEvaluation
from lineside_converters.thresholds import FrameRequest, RejectTolerance, decide
from lineside_converters.thresholds.output import write_reading
from lineside_converters.thresholds.recalibration import refit
from lineside_converters.thresholds.report import ThresholdOutcome
from lineside_converters.training.detection.score_calibration import apply_maps
from lineside_models import zoo
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config

BUNDLE = "surface-12"
DATA = scaled("deeppcb", smoke="neu-det")
FOLD, JUDGED = scaled(("train", "val"), smoke=("all", "all"))
TOLERATED = scaled((0.005, 0.01, 0.02), smoke=(0.2,))
BAD_SHARE = 0.01
BEST_F1 = {
    "open": 0.47196,
    "short": 0.41587,
    "mousebite": 0.57316,
    "spur": 0.40491,
    "copper": 0.5396,
    "pin-hole": 0.70765,
}
"""Of 2.1.0, as scores before calibration."""

CALIBRATED = scaled(("neu-det", "deeppcb"), smoke=("neu-det",))

BARS = {"false_rejects": 0.01, "found": 0.99}


def run() -> dict[str, Any]:
    """Chooses and judges for each tolerated share."""
    root = shared(DATA)
    shipped = open_bundle(zoo.path(BUNDLE))
    chosen_on, held = (
        FrameRequest(data=[root], fold=fold, take="all", simulated=scaled(0, smoke=4)) for fold in (FOLD, JUDGED)
    )
    config = Config(threads=1, engines=("ort",))
    rows = {}
    for share in TOLERATED:
        found = decide(shipped, chosen_on, _tolerance(share), config=config)
        rows[f"{share:g}"] = _outcome(found.cross_fold)
    with tempfile.TemporaryDirectory() as folder:
        before = _with_thresholds(shipped, Path(folder) / "before")
        baseline = decide(before, chosen_on, _tolerance(TOLERATED[-1]), config=config).before
    return {
        "baseline": "thresholds with the best F1 of types",
        "bundle": shipped.manifest.identity,
        "data": DATA,
        "fold": FOLD,
        "judged": JUDGED,
        "parts": found.parts,
        "bars": BARS,
        "best_f1": _outcome(baseline),
        "tolerated": rows,
        "shipped": _shipped(shipped, root, held, config),
        "calibration": {name: _calibration(shipped, name) for name in CALIBRATED},
    }


def _calibration(bundle: Bundle, data: str) -> Any:
    """Returns how often scores are right where they were calibrated on other parts of the train fold."""
    frames = FrameRequest(data=[shared(data)], fold=FOLD, take="all", simulated=scaled(0, smoke=4))
    with tempfile.TemporaryDirectory() as folder:
        return msgspec.to_builtins(refit(bundle, frames, Path(folder) / "refitted").reliability)


def _shipped(bundle: Bundle, root: Path, held: FrameRequest, config: Config) -> dict[str, Any]:
    """Judges the shipped thresholds; good parts are the templates alone, without stand-ins where these are few."""
    outcome = _outcome(decide(bundle, held, _tolerance(TOLERATED[-1]), config=config).before)
    outcome.pop("false_rejects", None)
    found = judge(bundle.path, root, EvaluationRequest(fold=JUDGED, config=config))
    if not isinstance(found, DetectorEvaluation):
        raise RuntimeError(f"{bundle.manifest.identity} is no detector")
    verdicts = found.good_or_bad
    if verdicts.false_rejects:
        every = verdicts.false_rejects[-1]
        interval = {"low": every.interval.low, "high": every.interval.high}
        outcome["false_rejects"] = {"count": every.rejected, "of": every.parts, "share": every.rate, **interval}
    return outcome


def _tolerance(share: float) -> RejectTolerance:
    return RejectTolerance(share=share, bad_share=BAD_SHARE)


def _with_thresholds(bundle: Bundle, out: Path) -> Bundle:
    params = dict(bundle.manifest.postprocess.params)
    raw = np.array([[BEST_F1.get(name, 0.5) for name in bundle.manifest.labels]])
    params["thresholds"] = apply_maps(raw, params["calibration"])[0].tolist()
    return write_reading(bundle, params, out, card="")


def _outcome(of: ThresholdOutcome) -> dict[str, Any]:
    rates = {"missed": of.missed, "types_missed": of.missed_types, "false_rejects": of.false_rejects}
    return {name: msgspec.to_builtins(rate) for name, rate in rates.items() if rate is not None}
