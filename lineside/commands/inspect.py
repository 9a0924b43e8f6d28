"""``lineside inspect``."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

from lineside.commands.output import add_json, print_json, say
from lineside_models.draw import annotate
from lineside_models.inspection import Inspection
from lineside_models.rules import BUNDLES_OWN
from lineside_runtime.errors import InputNotFoundError

WORDS = {"good": "PASS  ", "bad": "REJECT", "unsure": "UNSURE"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what to inspect and with what."""
    parser.add_argument("images", nargs="+", type=Path, help="photos, or folders of photos")
    parser.add_argument("--model", type=Path, help="a bundle, .onnx or .pt file (default: the shipped bundle)")
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="least score of a defect (default: the bundle's own, by type)"
    )
    parser.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="TOML as for `lineside push --config`: what its [inspect] says counts",
    )
    parser.add_argument("--draw", type=Path, metavar="DIR", help="write annotated PNGs here")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints a line a photo, or one JSON object, and draws where asked."""
    from lineside.vision import QualityInspector
    from lineside_agent.rules_file import load_rules

    missing = [path for path in options.images if not path.exists()]
    if missing:
        raise InputNotFoundError(f"{missing[0]} is not there", action="Give photos or folders of photos.")
    verdicts: list[Inspection] = []
    rules = BUNDLES_OWN if options.rules is None else load_rules(options.rules)
    with QualityInspector(options.model, confidence_threshold=options.threshold, rules=rules) as inspector:
        for path in options.images:
            verdicts += inspector.predict(path)
    if options.draw is not None:
        _draw(verdicts, options.draw)
    if options.json:
        print_json({"inspections": verdicts})
        return 0
    for verdict in verdicts:
        found = ", ".join(f"{one.type} {one.score:.2f}" for one in verdict.detections or verdict.doubtful)
        print(f"{WORDS[verdict.verdict]}  {verdict.source}  {found}")
    rejected, unsure = (sum(verdict.verdict == kind for verdict in verdicts) for kind in ("bad", "unsure"))
    say(f"{len(verdicts)} inspected, {rejected} rejected, {unsure} unsure")
    return 0


def _draw(verdicts: list[Inspection], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, verdict in enumerate(verdicts):
        image = cv2.imread(verdict.source, cv2.IMREAD_COLOR)
        if image is not None:
            name = f"{index:05d}-{Path(verdict.source).stem}.png"
            cv2.imwrite(str(folder / name), annotate(image, verdict.detections, doubtful=verdict.doubtful))
