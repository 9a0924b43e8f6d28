"""``lineside inspect``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lineside.console import inform, one_line, print_json, show, show_frames
from lineside.options import add_json, bundle_path, positive
from lineside_runtime.errors import ConfigError, LinesideError
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside.inspection.agent_inspector import AgentInspector
    from lineside.inspection.run import InspectionCounts
    from lineside_models.inspection import Inspection
    from lineside_models.vision import ImageInspector
    from lineside_runtime.bundle import Manifest

INTERRUPTED = 130
_CLASSES_SHOWN = 3
"""Most likely classes that are printed of an unsure part."""
_FINDINGS_SHOWN = 5
"""Findings of a frame that are printed; ``--json`` and ``--jsonl`` have all."""
WORDS = {"good": "PASS  ", "bad": "REJECT", "unsure": "UNSURE"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="+",
        help="photos and folders of photos, with subfolders; or a video file; `simulator` or `simulator:SEED`; "
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
        help="variant of the bundle (default: the first that runs)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="least score of a defect (default: that of --rules, or the bundle's own, by type)",
    )
    parser.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="TOML as for `lineside push --config`; its [inspect] table applies",
    )
    parser.add_argument(
        "--reference",
        nargs="+",
        default=[],
        metavar="FILE",
        help="images of good parts to compare with, in place of those in the bundle; for bundles that compare",
    )
    parser.add_argument(
        "--expected",
        type=Path,
        metavar="PATH",
        help="file or folder with what marks on each part must say, for rules in `read` that agree with a field",
    )
    parser.add_argument("--frames", type=positive, metavar="N", help="at most so many frames")
    parser.add_argument("--draw", type=Path, metavar="DIR", help="write annotated PNGs here")
    parser.add_argument("--video", type=Path, metavar="FILE", help="write one annotated .mp4 or .avi")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write one HTML page of the verdicts, with the annotated frames or heat maps",
    )
    parser.add_argument("--jsonl", action="store_true", help="print one JSON object for each frame at once")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Inspects, prints a line for each frame or JSON, and draws if requested.

    Returns:
        0, or 1 if a source could not be read, or 130 after Ctrl-C.
    """
    from lineside.inspection.drawing import Drawer
    from lineside.inspection.page import VerdictPage
    from lineside.inspection.run import inspect_source
    from lineside.inspection.sources import open_source

    if options.json and options.jsonl:
        raise ConfigError("--json and --jsonl", expected="one of them", action="")
    source = open_source(options.source).first(options.frames)
    if options.json and source.endless:
        raise ConfigError(
            "--json", expected="a source that ends, or --frames N", actual=" ".join(options.source), action=""
        )
    printer = _VerdictPrinter(options, source.count)
    page = None if options.page is None else VerdictPage(options.page, " ".join(options.source))
    with (
        Drawer(options.draw, options.video, rate_hz=source.rate_hz, page=page) as drawer,
        _open_inspector(options) as inspector,
    ):
        counts = inspect_source(inspector, source, drawer, on_verdict=printer.verdict, on_unreadable=printer.unreadable)
    printer.end(counts)
    if counts.interrupted:
        return INTERRUPTED
    return 1 if counts.unreadable else 0


def _open_inspector(options: argparse.Namespace) -> ImageInspector | AgentInspector:
    """Opens the model; a bundle of several models as an agent does."""
    from lineside.inspection.agent_inspector import AgentInspector
    from lineside.vision import QualityInspector
    from lineside_agent.config import InspectConfig, load_inspect, load_rules
    from lineside_runtime.bundle import MANIFEST_NAME, open_bundle
    from lineside_runtime.config import Config

    model = options.model
    if model is not None and (model / MANIFEST_NAME).is_file() and (bundle := open_bundle(model)).manifest.several:
        config = InspectConfig() if options.rules is None else load_inspect(options.rules)
        for name, value in (("confidence_threshold", options.threshold), ("variant", options.variant)):
            config = config if value is None else msgspec.structs.replace(config, **{name: value})
        given = {"reference": tuple(options.reference), "expected_values": str(options.expected or "")}
        return AgentInspector(bundle, msgspec.structs.replace(config, **given))
    rules = None if options.rules is None else msgspec.structs.asdict(load_rules(options.rules))
    if rules is not None and options.threshold is not None:
        rules["confidence_threshold"] = options.threshold
    inspector = QualityInspector(
        model,
        confidence_threshold=options.threshold,
        rules=rules,
        config=Config(variant=options.variant),
        reference=options.reference,
        expected_values=options.expected,
    )
    _say_rule(inspector.session.manifest)
    return inspector


def _say_rule(manifest: Manifest) -> None:
    """Prints which parts a classifier passes, and warns of a class that sounds good but counts as a defect."""
    from lineside_models.verdict.good_classes import good_of, names_good_part, rule_of

    if rule := rule_of(manifest.postprocess, manifest.labels):
        inform(rule)
    stated = "good" in manifest.postprocess.params or good_of(manifest.postprocess)
    for name in () if stated or manifest.task != "classification" else manifest.labels:
        if names_good_part(name):
            inform(
                f"{name} counts as a defect: the bundle does not declare it as good. Make the bundle again with "
                f"lineside optimize … --level 0 --good-class {name}"
            )


class _VerdictPrinter:
    """Prints verdicts in the format of the options."""

    def __init__(self, options: argparse.Namespace, count: int | None) -> None:
        self._json, self._jsonl = options.json, options.jsonl
        self._verdicts: list[Inspection] = []
        self._unreadable: list[dict[str, Any]] = []
        self._count, self._done = count, 0
        self._faults = 0
        self._undecided = 0  # inspected, but a mark or a measured value was not read
        self._progress = sys.stderr.isatty() and not (sys.stdout.isatty() and not options.json)

    def verdict(self, one: Inspection) -> None:
        """Prints a verdict, or stores it for the JSON object."""
        undecided = bool(one.fault) and one.verdict != "bad"
        self._undecided += undecided
        if self._json:
            self._verdicts.append(one)
        elif self._jsonl:
            print_json(one)
        else:
            word = "FAULT " if undecided else WORDS[one.verdict]
            show(f"{word}  {one_line(one.source)} {_number(one)} {_findings(one)}".rstrip(), flush=True)
        self._step()

    def unreadable(self, name: str, why: LinesideError | str) -> None:
        """Prints what could not be read or judged."""
        from lineside_models.inspector import FRAME_ERRORS

        error = why.as_dict() if isinstance(why, LinesideError) else {"message": why}
        if self._json:
            self._unreadable.append({"source": name, "error": error})
        elif self._jsonl:
            print_json({"source": name, "error": error})
        if isinstance(why, FRAME_ERRORS):
            self._faults += 1
            inform(f"FAULT   {one_line(name)}: {why}")
        else:
            inform(f"not read: {why}" if isinstance(why, LinesideError) else f"not read: {one_line(name)}: {why}")
        self._step()

    def end(self, counts: InspectionCounts) -> None:
        """Prints the counts."""
        if self._json:
            names = ("inspected", "rejected", "unsure", "unreadable")
            totals = {name: getattr(counts, name) for name in names}
            rest = {"unreadable": self._unreadable, "counts": totals, "interrupted": counts.interrupted}
            print_json({"inspections": self._verdicts, **rest})
        unread, faults = counts.unreadable - self._faults, counted(self._faults, "fault")
        more = (f", {faults}" if self._faults else "") + (f", {unread} not read" if unread else "")
        stopped = ", interrupted" if counts.interrupted else ""
        unsure, undecided = counts.unsure - self._undecided, counted(self._undecided, "fault")
        parts = [f"{unsure} of them unsure"] * bool(unsure) + [f"{undecided} among them"] * bool(self._undecided)
        doubts = f" ({', '.join(parts)})" if parts else ""
        inform(f"{counts.inspected} inspected, {counts.rejected} rejected{doubts}{more}{stopped}")

    def _step(self) -> None:
        self._done += 1
        if self._progress:
            show_frames(self._done, self._count)


def _findings(one: Inspection) -> str:
    """Returns what was found: all where that is little, else what decides and the number of the others.

    Of each defect type the surest defect decides, of measured values and marks those that the part fails by.
    """
    seen: set[str] = set()
    found = [(one.frame_problem, True)] if one.frame_problem else []
    if one.verdict == "unsure" and one.probabilities and (one.doubtful or not one.fault):
        likeliest = list(one.probabilities.items())[:_CLASSES_SHOWN]
        found.append(("no class is sure: " + ", ".join(f"{name} {share:.2f}" for name, share in likeliest), True))
    else:
        for each in one.detections or one.doubtful:
            found.append((f"{each.type} {each.score:.2f}", each.type not in seen))
            seen.add(each.type)
    found += [(value.text, bool(value.error) or not value.in_tolerance) for value in one.measurements]
    found += [(mark.summary, mark.failure is not None) for mark in one.readings]
    shown = [text for text, _ in found]
    if len(found) > _FINDINGS_SHOWN:
        shown = ([text for text, decides in found if decides] or shown)[:_FINDINGS_SHOWN]
        shown.append(f"and {len(found) - len(shown)} more")
    return ", ".join(shown)


def _number(one: Inspection) -> str:
    """Returns the frame's number, empty for a photo."""
    return "" if Path(one.source).stem == one.part_id else f"#{one.sequence}"
