"""``lineside learn-good``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lineside.console import print_json, say, show
from lineside.options import add_json, add_overwrite
from lineside_models.anomaly.learning import ENTRIES_A_FRAME, ENTRIES_MAX, ENTRIES_MIN, FRAMES_MIN, QUANTILE
from lineside_runtime.errors import InputNotFoundError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--source",
        required=True,
        nargs="+",
        metavar="S",
        help="good parts: a folder of photos, a video, a dataset with a folder of good ones, or a camera as "
        "for `lineside camera test`, such as: v4l2 index=0",
    )
    parser.add_argument("--fold", default="all", help="of a dataset with folds (default: %(default)s)")
    parser.add_argument(
        "--parts",
        default="",
        metavar="REGEX",
        help="names the part that a photo shows, in its path; photos of one part are left out together where the "
        "threshold is chosen (default: a column of folds.csv, else each photo shows another part)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=50,
        metavar="N",
        help=f"number of frames, at least {FRAMES_MIN}; evenly spread, or the next N of a camera "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--check",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="photos of bad parts, only to check how many the model finds; repeatable",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the new bundle")
    parser.add_argument("--name", help="of the bundle (default: the folder's name)")
    parser.add_argument("--version", default="1.0.0", help="of the bundle (default: %(default)s)")
    parser.add_argument(
        "--bank-bytes",
        type=int,
        metavar="B",
        help=f"size of the memory bank (default: {ENTRIES_A_FRAME} entries a frame and scale, from {ENTRIES_MIN} to "
        f"{ENTRIES_MAX}; 1,024 entries are 328 kB)",
    )
    parser.add_argument(
        "--keep-all",
        action="store_true",
        help="learn also from frames that look bad; by default up to 5 %% of the parts are left out and named",
    )
    parser.add_argument(
        "--quantile",
        type=float,
        default=QUANTILE,
        metavar="Q",
        help="share of good parts that should pass (default: %(default)s)",
    )
    parser.add_argument(
        "--no-mirror",
        action="store_true",
        help="mirror images of good parts are not good, as for print",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")
    add_overwrite(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Learns, writes the bundle, and prints its figures."""
    from lineside.inspection.good_frames import bad_frames, good_frames
    from lineside_models.anomaly.learning import LearningOptions, learn
    from lineside_models.anomaly.packaging import check, report_of, write_bundle
    from lineside_models.vision.onnx_bundle import name_of
    from lineside_runtime.bundle.install import check_target

    check_target(options.out, overwrite=options.overwrite)
    settings = LearningOptions(
        bank_bytes=options.bank_bytes,
        quantile=options.quantile,
        mirror=not options.no_mirror,
        seed=options.seed,
        threads=options.threads,
        drop_bad=not options.keep_all,
    )
    settings.check()
    for folder in options.check:
        if not folder.is_dir():
            raise InputNotFoundError(f"no folder of bad parts at {folder}", action="Give a folder of photos.")
    frames = good_frames(options.source, options.frames, fold=options.fold, parts=options.parts)
    learnt = learn(frames, settings, on_progress=say if sys.stderr.isatty() else lambda text: None)
    source = " ".join(options.source)
    checked = None
    if options.check:
        checked = check(learnt, bad_frames(options.check), " and ".join(folder.name for folder in options.check))
    bundle = write_bundle(
        learnt,
        options.out,
        name=options.name or name_of(options.out.name),
        version=options.version,
        source=source,
        checked=checked,
        overwrite=options.overwrite,
    )
    report = report_of(learnt, source, checked)
    for warning in (learnt.warning, checked.warning if checked is not None else ""):
        if warning:
            say(f"warning: {warning}")
    if options.json:
        print_json({"bundle": bundle.path, "digest": bundle.digest, **report})
        return 0
    show(
        f"{bundle.manifest.identity}: {learnt.frames} frames of {learnt.parts} parts, "
        f"{sum(learnt.seconds.values()):.1f} s"
    )
    show(f"bank {learnt.bank_bytes} bytes, bundle {bundle.manifest.size_bytes} bytes")
    above = report["left_out_above_bar"]
    show(f"{above} of {learnt.frames} frames scored above the threshold when their part was left out")
    if checked is not None:
        show(f"{checked.frames - len(checked.passed)} of {checked.frames} bad parts found ({checked.source})")
    show(bundle.path)
    return 0
