"""The frames on which thresholds are chosen or fitted: data, fold, what training held out, drawn ones."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_frames(parser: argparse._ActionsContainer) -> None:
    """Add ``--data``, ``--fold``, ``--take`` and ``--simulated``: a `thresholds.frames.FrameRequest`."""
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="annotated data sets")
    parser.add_argument("--fold", default="train", help="which fold of the data (default: %(default)s)")
    parser.add_argument(
        "--take",
        choices=("held", "all"),
        default="held",
        help="of a fold that the bundle was trained on: what training held out, if known, or all (%(default)s)",
    )
    parser.add_argument(
        "--simulated",
        type=_count,
        default=0,
        metavar="N",
        help="so many clean frames of the line simulator are good parts too",
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number of frames, not {text!r}")
    return int(text)
