"""``lineside evaluate`` of a model that knows good parts only."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from lineside.commands.output import print_json
from lineside.extras import needs

if TYPE_CHECKING:
    from lineside_converters.evaluating_anomaly import AnomalyEvaluation


def run(options: argparse.Namespace) -> int:
    """Evaluates and prints a table or JSON."""
    with needs("convert"):
        from lineside_converters.evaluating_anomaly import evaluate_anomaly
    from lineside_models.datasets.parts import load_parts
    from lineside_runtime.bundle import open_bundle

    parts = load_parts(options.data, options.fold)
    result = evaluate_anomaly(
        open_bundle(options.bundle), parts, fold=options.fold, max_frames=options.max_frames, on_progress=_progress
    )
    print(file=sys.stderr)
    if options.json:
        print_json(result)
    else:
        _print_table(result)
    return 0


def _progress(done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        print(f"\r{done} of {total} frames", end="", file=sys.stderr, flush=True)


def _print_table(result: AnomalyEvaluation) -> None:
    print(f"{result.bundle} on {result.dataset}, fold {result.fold}: {result.frames} frames, {result.good} good")
    pixels = "" if result.auroc_pixels is None else f"   of pixels {result.auroc_pixels:.3f}"
    print(f"AUROC {result.auroc:.3f}{pixels}")
    print(f"false rejects {result.false_rejects:.3f}   recall {result.recall:.3f}")
    print(f"latency p50 {result.latency_ms:.2f} ms on {result.used_device}")
    print(f"{'kind':<18}{'AUROC':>8}{'recall':>8}")
    for kind, value in result.auroc_by_kind.items():
        print(f"{kind:<18}{value:>8.3f}{result.recall_by_kind[kind]:>8.3f}")
