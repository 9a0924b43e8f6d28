"""``lineside inspect``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from lineside.commands.output import add_json, print_json, say
from lineside_models.draw import annotate
from lineside_models.inspection import Inspection
from lineside_runtime.errors import InputNotFoundError

if TYPE_CHECKING:
    from lineside_models.vision import QualityInspector as DeviceInspector


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what to inspect and with what."""
    parser.add_argument("images", nargs="+", type=Path, help="photos, or folders of photos")
    parser.add_argument("--model", type=Path, help="a bundle, .onnx or .pt file (default: the shipped bundle)")
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="least score of a defect (default: the bundle's own, by type)"
    )
    parser.add_argument("--draw", type=Path, metavar="DIR", help="write annotated PNGs here")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints a line a photo, or one JSON object, and draws where asked."""
    from lineside.vision import QualityInspector

    missing = [path for path in options.images if not path.exists()]
    if missing:
        raise InputNotFoundError(f"{missing[0]} is not there", action="Give photos or folders of photos.")
    verdicts: list[Inspection] = []
    with QualityInspector(options.model, confidence_threshold=options.threshold) as inspector:
        for path in options.images:
            verdicts += inspector.predict(path)
        if options.draw is not None:
            _draw(verdicts, options.draw, inspector)
    if options.json:
        print_json({"inspections": verdicts})
        return 0
    for verdict in verdicts:
        found = ", ".join(f"{one.type} {one.score:.2f}" for one in verdict.detections)
        print(f"{'PASS  ' if verdict.passed else 'REJECT'}  {verdict.source}  {found}")
    rejected = sum(not verdict.passed for verdict in verdicts)
    say(f"{len(verdicts)} inspected, {rejected} rejected")
    return 0


def _draw(verdicts: list[Inspection], folder: Path, inspector: DeviceInspector) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, verdict in enumerate(verdicts):
        image = cv2.imread(verdict.source, cv2.IMREAD_COLOR)
        if image is not None:
            name = f"{index:05d}-{Path(verdict.source).stem}.png"
            heat = None if verdict.anomaly_score is None else inspector.heat_map(verdict.source)
            cv2.imwrite(str(folder / name), annotate(image, verdict.detections, heat=heat))
