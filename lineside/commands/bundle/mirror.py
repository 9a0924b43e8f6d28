"""``lineside bundle mirror``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import Actions, add_bundle, add_frames, add_json, add_overwrite, frame_request
from lineside_runtime.bundle import open_bundle


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "mirror",
        help="add test-time augmentation to a detector",
        description="Writes a detector's bundle with a variant that averages the answers on a frame and on its mirror "
        "image. It takes the time of two frames, and is refused if it does not find more. The single variant stays, "
        "for devices that are hot or late. Not for parts whose mirror image is a defect.",
    )
    add_bundle(parser, "a detector's folder, or the name of a shipped bundle")
    parser.add_argument("out", type=Path, help="the new folder")
    add_frames(parser)
    parser.add_argument("--version", default="", help="of the new bundle (default: the old one's, last number + 1)")
    add_overwrite(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Adds the variant, and prints its gain and its cost."""
    with needs("convert"):
        from lineside_converters.bundles.test_time_augmentation import add_mirrored
    done = add_mirrored(
        open_bundle(options.bundle),
        frame_request(options),
        options.out,
        version=options.version,
        overwrite=options.overwrite,
        on_progress=lambda now, of: inform(f"{now} of {of} frames") if now % 40 == 0 else None,
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
    show("scores have changed a little: fit them with `lineside bundle refit`")
    show(done.bundle.path)
    return 0
