"""``lineside bundle mirror``: a detector that looks at the mirror image too."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.console import print_json, say, show
from lineside.extras import needs
from lineside.options import add_frames, add_json, bundle_path
from lineside_runtime.bundle import open_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `lineside bundle mirror` takes."""
    parser.add_argument("bundle", type=bundle_path, help="a detector's folder, or the name of a shipped bundle")
    parser.add_argument("out", type=Path, help="the folder to make")
    add_frames(parser)
    parser.add_argument("--version", default="", help="of the new bundle (default: the old one's, last number + 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle that stands there")
    add_json(parser)
    parser.set_defaults(run=run_mirror)


def run_mirror(options: argparse.Namespace) -> int:
    """Adds the second look, judges it, and says what it brings and costs."""
    with needs("convert"):
        from lineside_converters.test_time_augmentation import add_mirrored
        from lineside_converters.thresholds.frames import FrameRequest
    done = add_mirrored(
        open_bundle(options.bundle),
        FrameRequest(data=options.data, fold=options.fold, take=options.take, simulated=options.simulated),
        options.out,
        version=options.version,
        overwrite=options.overwrite,
        on_progress=lambda now, of: say(f"{now} of {of} looks") if now % 40 == 0 else None,
    )
    drop = done.drop
    gain = {"value": -drop.drop, "low": -drop.high, "high": -drop.low, "confidence": drop.confidence}
    if options.json:
        figures = {"map50_before": drop.before, "map50": drop.after, "gain": gain, "slowdown": done.slowdown}
        made = {"bundle": done.bundle.path, "digest": done.bundle.digest, "variant": done.variant}
        print_json({**made, **figures, "frames": done.frames})
        return 0
    show(
        f"{done.variant}: mAP@0.5 {drop.before:.4f} -> {drop.after:.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}) "
        f"on {done.frames}; {done.slowdown:.2f} x the time"
    )
    show("scores are a little other ones now: fit them with `lineside bundle refit`")
    show(done.bundle.path)
    return 0
