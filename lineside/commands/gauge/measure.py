"""``lineside gauge measure``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show, show_frames
from lineside.options import add_json
from lineside_runtime.errors import ConfigError, LinesideError, MeasurementError
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside_models.metrology.measurement import Measurement
    from lineside_models.verdict.rules import Rules

HELP = "measure photos by the rules of a configuration, without a bundle"
DESCRIPTION = (
    "Measures photos by the rules [[inspect.measure]] of a TOML file as for `lineside push --config`, and prints each "
    "value with its limits. Ends with 1 if a photo could not be read or measured."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="+", help="photos, and folders of photos with subfolders")
    add_rules(parser)
    parser.add_argument("--draw", type=Path, metavar="DIR", help="write PNGs with the measured lines here")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the values as a table")
    add_json(parser)


def add_rules(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds ``--rules``."""
    parser.add_argument(
        "--rules",
        type=Path,
        required=required,
        metavar="FILE",
        help="TOML with [[inspect.measure]] and, for millimetres, [inspect.calibration]",
    )


def read_rules_file(path: Path) -> Rules:
    """Reads rules that measure.

    Raises:
        ConfigError: The file has none.
    """
    from lineside_agent.config import load_rules

    rules = load_rules(path)
    if not rules.measure:
        raise ConfigError(f"{path} measures nothing", expected="a table [[inspect.measure]]", action="Add a rule.")
    return rules


def run(options: argparse.Namespace) -> int:
    import cv2

    from lineside.inspection.drawing import picture_name
    from lineside.inspection.sources import open_source
    from lineside_models.draw import annotate
    from lineside_models.vision.images import read_image
    from lineside_runtime.files import ensure_writable, write_atomic

    rules = read_rules_file(options.rules)
    source = open_source(options.source)
    if source.rate_hz is not None or source.endless:
        raise ConfigError("sources", expected="photos and folders", actual=" ".join(options.source), action="")
    for place in filter(None, (options.csv, None if options.draw is None else options.draw / "frame.png")):
        ensure_writable(place)
    photos = [one for one in source.images if isinstance(one, Path)]
    found: list[tuple[str, tuple[Measurement, ...]]] = []
    failed = 0
    for number, path in enumerate(photos):
        try:
            image = read_image(path)
            measured = rules.measured(image)
        except LinesideError as error:
            failed += 1
            inform(f"not measured: {path}: {error}" if isinstance(error, MeasurementError) else f"not read: {error}")
            continue
        found.append((str(path), measured))
        failed += any(one.error for one in measured)
        if not options.json:
            for one in measured:
                show(f"{path}  {one.text}", flush=True)
        if options.draw is not None:
            drawn = annotate(image, (), measurements=measured, title=path.stem)
            picture = options.draw / picture_name(number, path.stem)
            write_atomic(picture, cv2.imencode(".png", drawn)[1].tobytes())
        if sys.stderr.isatty() and not sys.stdout.isatty():
            show_frames(number + 1, len(photos))
    if options.csv is not None:
        _write_csv(options.csv, found)
    if options.json:
        print_json({"photos": [{"source": name, "measurements": values} for name, values in found], "failed": failed})
    out = sum(any(not one.in_tolerance and not one.error for one in values) for _, values in found)
    inform(f"{counted(len(found), 'photo')}, {out} out of tolerance, {failed} not measured")
    return 1 if failed else 0


def _write_csv(path: Path, found: list[tuple[str, tuple[Measurement, ...]]]) -> None:
    import csv
    import io

    from lineside_runtime.files import write_atomic

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("part", "rule", "value", "unit", "min", "max", "in_tolerance", "error"))
    for name, values in found:
        for one in values:
            cells = (one.value, one.unit, one.min, one.max, one.in_tolerance, one.error)
            writer.writerow((name, one.name, *("" if cell is None else cell for cell in cells)))
    write_atomic(path, text.getvalue().encode())
