"""``lineside learn-good``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show
from lineside.options import add_good_parts, add_json, add_overwrite
from lineside_models.anomaly.learning import ENTRIES_A_FRAME, ENTRIES_MAX, ENTRIES_MIN, FRAMES_MIN, QUANTILE
from lineside_runtime.errors import ConfigError
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside.inspection.good_frames import PhotoReader
    from lineside_models.anomaly.learning import AnomalyModel

SHOWN = 10
"""Names of suspect frames that are printed; ``report.json`` has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_good_parts(parser, frames=50, how_many=f"at least {FRAMES_MIN}")
    parser.add_argument(
        "--parts",
        default="",
        metavar="REGEX",
        help="names the part that a photo shows, in its path; photos of one part are left out together where the "
        "threshold is chosen (default: a column of folds.csv, else each photo shows another part)",
    )
    parser.add_argument(
        "--bad",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="marked bad parts to learn from, ten or more: a data set with boxes or masks, such as the relabel loop "
        "gives, or a folder of photos for each type; verdicts then name these types. Plain photos serve, too; "
        "repeatable. Check with other bad parts",
    )
    parser.add_argument(
        "--add",
        type=Path,
        metavar="BUNDLE",
        help="extend this bundle of learn-good by good frames of a new kind of part, five or more at a changeover; its "
        "threshold stays",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the new bundle")
    parser.add_argument("--name", help="of the bundle (default: the folder's name)")
    parser.add_argument("--version", help="of the bundle (default: 1.0.0, or that of --add)")
    _add_settings(parser)
    add_overwrite(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds options that are seldom changed."""
    parser.add_argument(
        "--bank-bytes",
        type=int,
        metavar="B",
        help=f"size of the memory bank (default: {ENTRIES_A_FRAME} entries a frame and scale, from {ENTRIES_MIN} to "
        f"{ENTRIES_MAX}; 1,024 entries are 328 kB)",
    )
    parser.add_argument(
        "--quantile",
        type=float,
        metavar="Q",
        help=f"share of good parts that should pass (default: {QUANTILE})",
    )
    parser.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="learn mirror images of good parts, too; only if a mirrored part is good (default: no)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")


def run(options: argparse.Namespace) -> int:
    """Learns or extends, writes the bundle, and prints its figures."""
    from lineside.inspection.good_frames import PhotoReader, bad_frames, check_bad_folders
    from lineside_models.anomaly.packaging import check, report_of, write_bundle
    from lineside_models.vision.onnx_bundle import name_of
    from lineside_runtime.bundle.install import check_target

    check_target(options.out, overwrite=options.overwrite)
    check_bad_folders((*options.check, *options.bad))
    source = " ".join(options.source)
    name, version = options.name or name_of(options.out.name), options.version or "1.0.0"
    notes: list[str] = []
    photos = PhotoReader()
    if options.add is None:
        learned = _learned(options, photos)
    else:
        learned, identity, notes = _extended(options, photos)
        name, version = options.name or identity[0], options.version or identity[1]
    checked = None
    if options.check:
        checked = check(
            learned, bad_frames(options.check, photos), " and ".join(folder.name for folder in options.check)
        )
    bundle = write_bundle(
        learned, options.out, name=name, version=version, source=source, checked=checked, overwrite=options.overwrite
    )
    report = report_of(learned, source, checked)
    for warning in (learned.warning, checked.warning if checked is not None else ""):
        if warning:
            inform(f"warning: {warning}")
    if options.json:
        unreadable = [error.as_dict() for error in photos.unreadable]
        left_out = {"unreadable": unreadable, "copies": photos.copies}
        print_json({"bundle": bundle.path, "digest": bundle.digest, **left_out, **report})
        return 1 if unreadable else 0
    show(
        f"{bundle.manifest.identity}: {counted(learned.frames, 'frame')} of {counted(learned.parts, 'part')}, "
        f"{sum(learned.seconds.values()):.1f} s"
    )
    show(f"bank {learned.bank_bytes} bytes, bundle {bundle.manifest.size_bytes} bytes")
    show(_left_out(learned))
    for note in (*photos.notes, *notes):
        show(note)
    if checked is not None:
        show(checked.summary)
    show(bundle.path)
    return 1 if photos.unreadable else 0


def _left_out(learned: AnomalyModel) -> str:
    """Says how many frames are rejected if their part is left out, and names the first."""
    count = len(learned.suspects)
    names = ", ".join(learned.suspects[:SHOWN]) + (", …" if count > SHOWN else "")
    ending = f": {names}. Look for bad parts among them" if count else ""
    return f"{count} of {learned.frames} frames scored above the threshold when their part was left out{ending}"


def _learned(options: argparse.Namespace, photos: PhotoReader) -> AnomalyModel:
    from lineside.inspection.good_frames import good_frames, marked_frames
    from lineside_models.anomaly.learning import LearningOptions, learn

    settings = LearningOptions(
        bank_bytes=options.bank_bytes,
        quantile=QUANTILE if options.quantile is None else options.quantile,
        mirror=options.mirror,
        seed=options.seed,
        threads=options.threads,
    )
    settings.check()
    frames = good_frames(options.source, options.frames, photos, fold=options.fold, parts=options.parts)
    return learn(frames, settings, marked=marked_frames(options.bad, photos), on_progress=_progress())


def _extended(options: argparse.Namespace, photos: PhotoReader) -> tuple[AnomalyModel, tuple[str, str], list[str]]:
    """Returns the extended model, name and version of the bundle, and what to print of the added frames."""
    from lineside.inspection.good_frames import good_frames
    from lineside_models.anomaly.extension import extend, read_model
    from lineside_models.anomaly.features import collect_features
    from lineside_runtime.bundle import open_bundle

    for option in ("bank_bytes", "quantile"):
        if getattr(options, option) is not None:
            name = "--" + option.replace("_", "-")
            raise ConfigError(f"{name} with --add", expected=f"one of them: the bundle keeps its {option}")
    if options.bad:
        raise ConfigError("--bad with --add", expected="one of them", action="Learn again with --bad.")
    bundle = open_bundle(options.add)
    model = read_model(bundle)
    frames = good_frames(options.source, options.frames, photos, fold=options.fold, parts=options.parts)
    features = collect_features(frames, mirror=options.mirror, threads=options.threads, on_progress=_progress())
    found = extend(model, features, seed=options.seed)
    notes = [
        f"{found.frames} frames added, {' and '.join(map(str, found.entries))} entries",
        f"{found.above_before} of them were rejected before; {found.above_left_out} are when their part is left out",
    ]
    return found.model, (bundle.manifest.name, bundle.manifest.version), notes


def _progress() -> Callable[[str], None]:
    return inform if sys.stderr.isatty() else lambda text: None
