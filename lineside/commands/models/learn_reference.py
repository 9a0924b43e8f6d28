"""``lineside learn-reference``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show
from lineside.options import add_good_parts, add_json, add_overwrite, bundle_path, count
from lineside_models.reference.learning import EDGE_PX, FRAMES_FEW, FRAMES_MIN, GROW_PX, QUANTILE
from lineside_models.reference.registration import QUALITY_MIN, ROTATION_MAX_DEG, SHIFT_MAX
from lineside_runtime.errors import ConfigError

if TYPE_CHECKING:
    from lineside_models.anomaly.packaging import BadPartCheck
    from lineside_models.reference.learning import LearnedReference
    from lineside_runtime.bundle import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_good_parts(parser, frames=30, how_many=f"at least {FRAMES_MIN}, better {FRAMES_FEW}")
    parser.add_argument(
        "--reference",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="images to compare with; of several a frame is compared with the one that it matches best (default: the "
        "good frame whose part lies nearest to the middle of all)",
    )
    parser.add_argument(
        "--network",
        type=bundle_path,
        metavar="BUNDLE",
        help="bundle of a detector that was trained on frames with a reference; it judges in place of the classical "
        "difference, and the new bundle is a copy of it with the references",
    )
    _add_bundle(parser)
    _add_tolerances(parser)
    add_overwrite(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the new bundle")
    parser.add_argument("--name", help="of the bundle (default: the folder's name)")
    parser.add_argument("--version", default="1.0.0", help="of the bundle (default: %(default)s)")


def _add_tolerances(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quantile",
        type=float,
        default=QUANTILE,
        metavar="Q",
        help="share of good parts that should pass (default: %(default)s)",
    )
    parser.add_argument(
        "--edge-px",
        type=count,
        default=EDGE_PX,
        metavar="N",
        help="by how many pixels edges may move beyond what the good parts show (default: %(default)s)",
    )
    parser.add_argument(
        "--grow-px",
        type=count,
        default=GROW_PX,
        metavar="N",
        help="by how many pixels a defect's box is larger than what differs, to each side (default: %(default)s)",
    )
    parser.add_argument(
        "--max-shift",
        type=float,
        default=SHIFT_MAX,
        metavar="P",
        help="largest shift of a part, as a share of the frame's long side (default: %(default)s)",
    )
    parser.add_argument(
        "--max-rotation",
        type=float,
        default=ROTATION_MAX_DEG,
        metavar="DEG",
        help="largest rotation of a part to either side, in degrees (default: %(default)s)",
    )
    parser.add_argument(
        "--min-quality",
        type=float,
        default=QUALITY_MIN,
        metavar="P",
        help="least correlation of a frame with its reference; one below it is a fault (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Learns, writes the bundle, and prints its figures."""
    from lineside.inspection.good_frames import PhotoReader, bad_frames, check_bad_folders, good_frames
    from lineside_models.reference.learning import ReferenceOptions, learn_reference
    from lineside_models.reference.packaging import check, report_of, write_bundle
    from lineside_models.reference.reference_set import read_reference
    from lineside_models.reference.registration import RegistrationLimits
    from lineside_models.vision.onnx_bundle import name_of
    from lineside_runtime.bundle import open_bundle
    from lineside_runtime.bundle.install import check_target

    check_target(options.out, overwrite=options.overwrite)
    _check_limits(options)
    settings = ReferenceOptions(
        quantile=options.quantile,
        edge_px=options.edge_px,
        grow_px=options.grow_px,
        limits=RegistrationLimits(options.max_shift, options.max_rotation, options.min_quality),
    )
    settings.check()
    check_bad_folders(options.check)
    network = None if options.network is None else open_bundle(options.network)
    photos = PhotoReader()
    learned = learn_reference(
        good_frames(options.source, options.frames, photos, fold=options.fold),
        [read_reference(path) for path in options.reference],
        settings,
        on_progress=inform if sys.stderr.isatty() else lambda text: None,
    )
    source = " ".join(options.source)
    name = options.name or name_of(options.out.name)
    checked = None
    if options.check:
        where = " and ".join(folder.name for folder in options.check)
        checked = check(learned, bad_frames(options.check, photos), where, network=network)
    bundle = write_bundle(
        learned,
        options.out,
        name=name,
        version=options.version,
        source=source,
        checked=checked,
        network=network,
        overwrite=options.overwrite,
    )
    for warning in (learned.warning, checked.warning if checked is not None else ""):
        if warning:
            inform(f"warning: {warning}")
    report = report_of(learned, source, checked)
    if options.json:
        unreadable = [error.as_dict() for error in photos.unreadable]
        left_out = {"unreadable": unreadable, "copies": photos.copies}
        print_json({"bundle": bundle.path, "digest": bundle.digest, **left_out, **report})
        return 1 if unreadable else 0
    for note in photos.notes:
        show(note)
    _print_figures(bundle, learned, checked, is_difference=network is None)
    return 1 if photos.unreadable else 0


def _check_limits(options: argparse.Namespace) -> None:
    """Checks the limits of the registration against those of the manifest."""
    for name, value, most in (
        ("--max-shift", options.max_shift, 0.5),
        ("--max-rotation", options.max_rotation, 45.0),
        ("--min-quality", options.min_quality, 1.0),
    ):
        if not 0 <= value <= most:
            raise ConfigError(name, expected=f"0 to {most:g}", actual=value)


def _print_figures(
    bundle: Bundle, learned: LearnedReference, checked: BadPartCheck | None, *, is_difference: bool
) -> None:
    show(
        f"{bundle.manifest.identity}: {len(learned.scores)} good frames, least correlation {learned.quality:.3f}, "
        f"bundle {bundle.manifest.size_bytes} bytes"
    )
    if is_difference:
        show(f"threshold {learned.value:.0f} grey levels")
        above = sum(score >= learned.value for score in learned.scores)
        show(f"{above} of {len(learned.scores)} good frames lay above the threshold when left out")
    for reason in learned.unregistered:
        show(f"not registered: {reason}")
    if checked is not None:
        show(checked.summary)
    show(bundle.path)
