"""``lineside bundle refit``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import Actions, add_bundle, add_frames, add_json, add_overwrite, frame_request
from lineside_runtime.bundle import open_bundle


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "refit",
        help="fit a detector's scores and thresholds again",
        description="Fits a detector's score calibration and thresholds on what its own engine says of frames that "
        "it has not learnt, and writes a new version of the bundle. Thresholds by cost: lineside decide.",
    )
    add_bundle(parser, "a detector's folder, or the name of a shipped bundle")
    parser.add_argument("out", type=Path, help="the new folder")
    add_frames(parser)
    parser.add_argument(
        "--set",
        dest="changes",
        type=_change,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="also change a parameter of the post-processing, such as vote_iou=1; repeatable",
    )
    parser.add_argument(
        "--keep-thresholds",
        action="store_true",
        help="thresholds move with the scores, so that no verdict changes (default: the best F1)",
    )
    parser.add_argument("--version", default="", help="of the new bundle (default: the old one's, last number + 1)")
    add_overwrite(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fits, writes, and prints the result."""
    with needs("convert"):
        from lineside_converters.thresholds.recalibration import refit
    bundle = open_bundle(options.bundle)
    done = refit(
        bundle,
        frame_request(options),
        options.out,
        changes=dict(options.changes),
        keep_thresholds=options.keep_thresholds,
        version=options.version,
        overwrite=options.overwrite,
        on_progress=lambda now, of: inform(f"{now} of {of} frames") if now % 40 == 0 else None,
    )
    labels = done.bundle.manifest.labels
    thresholds = dict(zip(labels, done.thresholds, strict=True))
    if options.json:
        figures = {"f1_before": done.f1_before, "f1": done.f1, "thresholds": thresholds, "frames": done.frames}
        figures["calibration_error"] = done.reliability and done.reliability.ece
        print_json({"bundle": done.bundle.path, "digest": done.bundle.digest, **figures})
        return 0
    for label, threshold in thresholds.items():
        show(f"{threshold:6.3f}  {label}")
    best = "" if options.keep_thresholds else ", the best there is on these frames"
    show(f"image F1 on {done.frames}: {done.f1_before:.3f} before, {done.f1:.3f} now{best}")
    if (one := done.reliability) is not None:
        show(
            f"calibration error on other parts {one.ece:.3f} ({one.low:.3f} - {one.high:.3f}), {one.candidates} scores"
        )
    show(done.bundle.path)
    return 0


def _change(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        if not (name and equals):
            raise ValueError(text)
        return name, json.loads(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as vote_iou=1") from error
