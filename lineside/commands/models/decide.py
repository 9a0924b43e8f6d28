"""``lineside decide``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show, show_frames
from lineside.extras import needs
from lineside.options import (
    add_bundle,
    add_frames,
    add_json,
    add_overwrite,
    add_tasks,
    cluster_tasks,
    frame_request,
)
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import ConfigError
from lineside_runtime.files import write_atomic
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside_converters.thresholds import ErrorCosts, RejectTolerance, ThresholdReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    add_frames(parser)
    parser.add_argument("--good", type=Path, nargs="+", default=[], metavar="DIR", help="photos of more good parts")
    parser.add_argument(
        "--parts",
        default="",
        metavar="REGEX",
        help="names the part (board, tile, coil) in an image's path, so that thresholds are judged on other parts than "
        "they were chosen on (default: DeepPCB's boards, a column of folds.csv, or the file's name)",
    )
    parser.add_argument(
        "--false-rejects",
        type=float,
        metavar="P",
        help="share of the good parts that may be rejected, such as 0.005, in place of costs",
    )
    costs = parser.add_argument_group("costs", "In any unit; only their ratios count.")
    costs.add_argument("--miss-cost", type=float, metavar="C", help="of a bad part that passes")
    costs.add_argument("--reject-cost", type=float, metavar="C", help="of a good part that is rejected")
    costs.add_argument(
        "--review-cost",
        type=float,
        metavar="C",
        help="of the review of an unsure part (default: nothing is unsure)",
    )
    costs.add_argument(
        "--bad-share",
        type=float,
        default=0.01,
        metavar="P",
        help="share of the parts that are bad (default: %(default)s)",
    )
    to = parser.add_argument_group("output", "Without these options the thresholds are only printed.")
    to.add_argument(
        "--out", type=Path, metavar="BUNDLE", help="write a new version of the bundle, with page and JSON beside it"
    )
    to.add_argument("--version", default="", help="of the new bundle (default: the old one's, last number + 1)")
    add_overwrite(to)
    to.add_argument("--force", action="store_true", help="also write thresholds that cost more than the bundle's own")
    to.add_argument("--config", type=Path, metavar="FILE", help="write TOML for `lineside push --config`")
    to.add_argument("--page", type=Path, metavar="FILE", help="write the page with the curves")
    add_tasks(parser, "a part of the frames")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Chooses thresholds, writes them, and prints a table or JSON."""
    with needs("convert"):
        from lineside_converters import thresholds
    goal = _goal(options)
    request = frame_request(options, good=options.good, parts=options.parts)
    bundle = open_bundle(options.bundle)
    if options.out is not None:
        thresholds.check_place(bundle, options.out, version=options.version, overwrite=options.overwrite)
    thresholds.check_files([path for path in (options.config, options.page) if path is not None])
    with cluster_tasks(options) as tasks:
        decision = thresholds.decide(bundle, request, goal, tasks=tasks, on_progress=show_frames)
    if options.page is not None:
        thresholds.write_page(options.page, decision)
    if options.out is not None or options.config is not None:
        decision = thresholds.check_gain(decision, force=options.force)
    if options.out is not None:
        thresholds.write_bundle(bundle, decision, options.out, version=options.version, overwrite=options.overwrite)
        thresholds.write_page(options.out.with_name(f"{options.out.name}.decision.html"), decision)
        thresholds.write_figures(options.out.with_name(f"{options.out.name}.decision.json"), decision)
    if options.config is not None:
        write_atomic(options.config, thresholds.settings_of(decision).encode())
    if options.json:
        print_json(decision)
    else:
        _print_table(decision)
    return 0


def _goal(options: argparse.Namespace) -> ErrorCosts | RejectTolerance:
    from lineside_converters.thresholds import ErrorCosts, RejectTolerance

    costs = (options.miss_cost, options.reject_cost, options.review_cost)
    if options.false_rejects is not None:
        if costs != (None, None, None):
            raise ConfigError(
                "--false-rejects with a cost",
                expected="one of the two",
                actual="both",
                action="Leave out --miss-cost, --reject-cost and --review-cost.",
            )
        return RejectTolerance(share=options.false_rejects, bad_share=options.bad_share)
    if options.miss_cost is None or options.reject_cost is None:
        raise ConfigError(
            "what thresholds are chosen for",
            expected="--false-rejects, or --miss-cost and --reject-cost",
            actual="neither",
            action="Give --false-rejects 0.005 if one good part in 200 may be rejected.",
        )
    return ErrorCosts(
        miss=options.miss_cost, reject=options.reject_cost, review=options.review_cost, bad_share=options.bad_share
    )


def _print_table(decision: ThresholdReport) -> None:
    from lineside_converters.thresholds.page import PER, cost, rate

    goods = ", ".join(f"{count} of {source}" for source, count in decision.good_parts.items()) or "none"
    show(f"{decision.bundle}: {counted(decision.bad_parts, 'bad part')}; good parts: {goods}")
    show(f"scores from {decision.frames_from}")
    show(f"{'type':<18}{'before':>8}{'now':>8}{'unsure':>8}  missed")
    for each in decision.types:
        unsure = "-" if each.unsure_from is None else f"{each.unsure_from:.3f}"
        what = f"kept: {each.kept}" if each.kept else rate(each.miss)
        show(f"{each.type:<18}{each.was:>8.3f}{each.threshold:>8.3f}{unsure:>8}  {what}")
    for name, outcome in (("before", decision.before), ("now", decision.after), ("cross-fold", decision.cross_fold)):
        show(f"{name}: missed {rate(outcome.missed)}, types missed {rate(outcome.missed_types)}")
        show(f"{'':<{len(name)}}  false rejects {rate(outcome.false_rejects)}")
        show(f"{'':<{len(name)}}  cost of {PER} parts {cost(outcome)}")
    if decision.reliability is not None:
        one = decision.reliability
        show(f"calibration error {one.ece:.3f} ({one.low:.3f} - {one.high:.3f}), {one.candidates} scores")
    for note in decision.notes:
        inform(f"note: {note}")
