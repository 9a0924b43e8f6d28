"""``lineside inspect``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.console import print_json, say, show
from lineside.options import add_json, bundle_path
from lineside_runtime.errors import ConfigError, LinesideError

if TYPE_CHECKING:
    from lineside.inspection.run import InspectionCounts
    from lineside_models.inspection import Inspection
    from lineside_runtime.bundle import Manifest

INTERRUPTED = 130
SHOWN = 3
"""Classes that are named of a part of which none is sure."""
WORDS = {"good": "PASS  ", "bad": "REJECT", "unsure": "UNSURE"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what to inspect, with what, and what to write."""
    parser.add_argument(
        "source",
        nargs="+",
        help="photos and folders of photos (with the folders below); or a video file; `simulator` or `simulator:SEED`; "
        "rtsp://…; or `camera` with its type and settings, such as: camera v4l2 index=0",
    )
    parser.add_argument(
        "--model",
        "--bundle",
        type=bundle_path,
        help="a bundle, the name of a shipped one, an .onnx or .pt file (default: surface-12)",
    )
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="of the bundle's variants the one that judges (default: the first that runs)",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="least score of a defect (default: the bundle's own, by type)"
    )
    parser.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="TOML as for `lineside push --config`: what its [inspect] says counts",
    )
    parser.add_argument("--frames", type=_count, metavar="N", help="at most so many frames")
    parser.add_argument("--draw", type=Path, metavar="DIR", help="write annotated PNGs here")
    parser.add_argument("--video", type=Path, metavar="FILE", help="write one annotated .mp4 or .avi")
    parser.add_argument("--jsonl", action="store_true", help="one JSON object a frame on stdout, as they come")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Inspects, prints a line a frame or JSON, and draws where asked.

    Returns:
        0, 1 if something could not be read, 130 after Ctrl-C.
    """
    from lineside.inspection.drawing import Drawer
    from lineside.inspection.run import walk
    from lineside.inspection.sources import open_source
    from lineside.vision import QualityInspector
    from lineside_agent.config import load_rules
    from lineside_runtime.config import Config

    if options.json and options.jsonl:
        raise ConfigError("--json and --jsonl", expected="one of them", action="")
    source = open_source(options.source).first(options.frames)
    if options.json and source.endless:
        raise ConfigError(
            "--json", expected="a source that ends, or --frames N", actual=" ".join(options.source), action=""
        )
    rules = None if options.rules is None else load_rules(options.rules)
    say_on = _Teller(options, source.count)
    with (
        Drawer(options.draw, options.video, rate_hz=source.rate_hz) as drawer,
        QualityInspector(
            options.model, confidence_threshold=options.threshold, rules=rules, config=Config(variant=options.variant)
        ) as inspector,
    ):
        _say_rule(inspector.session.manifest)
        counts = walk(inspector, source, drawer, on_verdict=say_on.verdict, on_unreadable=say_on.unreadable)
    say_on.end(counts)
    if counts.interrupted:
        return INTERRUPTED
    return 1 if counts.unreadable else 0


def _say_rule(manifest: Manifest) -> None:
    """Says which parts a classifier passes, and of a class whose name sounds good that it is a defect here."""
    from lineside_models.verdict.good_classes import good_of, names_good_part, rule_of

    if rule := rule_of(manifest.postprocess, manifest.labels):
        say(rule)
    told = "good" in manifest.postprocess.params or good_of(manifest.postprocess)
    for name in () if told or manifest.task != "classification" else manifest.labels:
        if names_good_part(name):
            say(
                f"{name} counts as a defect: the bundle doesn't say that it means a good part. Make it again with "
                f"lineside optimize … --level 0 --good-class {name}"
            )


class _Teller:
    """Prints verdicts as the options say."""

    def __init__(self, options: argparse.Namespace, count: int | None) -> None:
        self._json, self._jsonl = options.json, options.jsonl
        self._verdicts: list[Inspection] = []
        self._unreadable: list[dict[str, Any]] = []
        self._count, self._done = count, 0
        self._progress = sys.stderr.isatty() and not (sys.stdout.isatty() and not options.json)

    def verdict(self, one: Inspection) -> None:
        """Prints or keeps a verdict."""
        if self._json:
            self._verdicts.append(one)
        elif self._jsonl:
            print_json(one)
        else:
            found = ", ".join(f"{each.type} {each.score:.2f}" for each in one.detections or one.doubtful)
            if one.verdict == "unsure" and one.probabilities:
                likeliest = list(one.probabilities.items())[:SHOWN]
                found = "no class is sure: " + ", ".join(f"{name} {share:.2f}" for name, share in likeliest)
            show(f"{WORDS[one.verdict]}  {one.source} {_number(one)} {found}".rstrip(), flush=True)
        self._step()

    def unreadable(self, name: str, why: LinesideError | str) -> None:
        """Says what could not be read."""
        told = why.as_dict() if isinstance(why, LinesideError) else {"message": why}
        if self._json:
            self._unreadable.append({"source": name, "error": told})
        elif self._jsonl:
            print_json({"source": name, "error": told})
        say(f"not read: {why}" if isinstance(why, LinesideError) else f"not read: {name}: {why}")
        self._step()

    def end(self, counts: InspectionCounts) -> None:
        """Prints the counts."""
        if self._json:
            names = ("inspected", "rejected", "unsure", "unreadable")
            totals = {name: getattr(counts, name) for name in names}
            rest = {"unreadable": self._unreadable, "counts": totals, "interrupted": counts.interrupted}
            print_json({"inspections": self._verdicts, **rest})
        more = f", {counts.unreadable} not read" if counts.unreadable else ""
        stopped = ", interrupted" if counts.interrupted else ""
        doubts = f" ({counts.unsure} of them unsure)" if counts.unsure else ""
        say(f"{counts.inspected} inspected, {counts.rejected} rejected{doubts}{more}{stopped}")

    def _step(self) -> None:
        self._done += 1
        if self._progress and (self._done % 10 == 0 or self._done == self._count):
            whole = "" if self._count is None else f" of {self._count}"
            print(
                f"\r{self._done}{whole} frames",
                end="\n" if self._done == self._count else "",
                file=sys.stderr,
                flush=True,
            )


def _number(one: Inspection) -> str:
    """Returns the frame's number where it is not a file of its own."""
    return "" if Path(one.source).stem == one.part_id else f"#{one.sequence}"


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("a number from 1")
    return number
