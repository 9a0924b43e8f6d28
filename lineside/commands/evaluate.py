"""``lineside evaluate``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from lineside.commands import evaluate_anomaly
from lineside.commands.output import add_json, print_json
from lineside.commands.places import bundle_place
from lineside.extras import needs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the bundle, the data and what to take of it."""
    parser.add_argument("bundle", type=bundle_place, help="a bundle's folder, or the name of a shipped bundle")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="an annotated data set; for an anomaly model, good and bad parts in folders",
    )
    parser.add_argument("--fold", default="all", help="which fold of its folds.csv (default: %(default)s)")
    parser.add_argument("--max-frames", type=int, metavar="N", help="at most so many frames")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluates and prints a table or JSON."""
    with needs("convert"):
        from lineside_converters.evaluate import evaluate
    from lineside_models.datasets import load_dataset
    from lineside_runtime.bundle import open_bundle

    if open_bundle(options.bundle).manifest.task == "anomaly":
        return evaluate_anomaly.run(options)
    dataset = load_dataset(options.data, options.fold)
    result = evaluate(
        open_bundle(options.bundle), dataset, fold=options.fold, max_frames=options.max_frames, on_progress=_progress
    )
    print(file=sys.stderr)
    if options.json:
        print_json(result)
    else:
        _print_table(msgspec.to_builtins(result))
    return 0


def _progress(done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        print(f"\r{done} of {total} frames", end="", file=sys.stderr, flush=True)


def _print_table(result: dict[str, Any]) -> None:
    latency = result["latency_ms"]
    print(f"{result['bundle']} on {result['dataset']}, fold {result['fold']}: {result['frames']} frames")
    print(f"mAP@0.5 {result['map50']:.3f}   image F1 {result['f1']:.3f}   box F1 {result['f1_boxes']:.3f}")
    print(f"latency p50 {latency['p50']:.2f} ms, p95 {latency['p95']:.2f} ms on {result['used_device']}")
    print(f"{'type':<18}{'AP@0.5':>8}{'precision':>11}{'recall':>8}{'image F1':>10}{'boxes':>7}")
    for name, figures in result["per_class"].items():
        ap50 = "-" if figures["ap50"] is None else f"{figures['ap50']:.3f}"
        print(
            f"{name:<18}{ap50:>8}{figures['precision']:>11.3f}{figures['recall']:>8.3f}"
            f"{figures['f1_image']:>10.3f}{figures['support']:>7}"
        )
