"""``lineside gauge calibrate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show
from lineside.options import add_json
from lineside_runtime.errors import ConfigError, MeasurementError

if TYPE_CHECKING:
    from lineside_models.metrology.calibration import Calibration

HELP = "calibrate a camera to millimetres by a chequerboard or a part of known size"
DESCRIPTION = (
    "Prints the table [inspect.calibration] for agent.toml. With --board, a picture of a chequerboard that lies in the "
    "plane of the parts gives scale, perspective and distortion of the lens. With --known, a rule of --rules measures "
    "a part of known size, which gives the scale alone: for a camera that looks straight down."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", nargs="+", type=Path, help="a picture of the board; or pictures of the known part, which are averaged"
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--board", type=_board, metavar="8x6", help="inner corners of the board in a row and in a column")
    how.add_argument("--known", type=_known, metavar="RULE=MM", help="rule that measures the part, and its known size")
    parser.add_argument("--square-mm", type=float, metavar="MM", help="side of a square of the board")
    parser.add_argument(
        "--rules", type=Path, metavar="FILE", help="TOML with the rule of --known in its [inspect] table"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table into a file instead of stdout")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Calibrates and prints the table."""
    found = _by_board(options) if options.board else _by_part(options)
    if options.json:
        print_json(found)
        return 0
    table = _table(found)
    if options.out is None:
        show(table)
    else:
        from lineside_runtime.files import write_atomic

        write_atomic(options.out, f"{table}\n".encode())
        inform(f"wrote {options.out}")
    precise = f", error {found.error_mm * 1000:.1f} µm over {found.points} corners" if found.points else ""
    inform(
        f"{found.px_per_mm:.4g} pixels for one millimetre at the centre{precise}; for frames of {_size(found)} pixels"
    )
    return 0


def _by_board(options: argparse.Namespace) -> Calibration:
    from lineside_models.metrology.calibration import board_calibration
    from lineside_models.vision.images import read_image

    if options.square_mm is None or options.square_mm <= 0 or len(options.image) > 1:
        raise ConfigError(
            "--board", expected="one picture, and --square-mm with the side of a square above 0", action=""
        )
    columns, rows = options.board
    return board_calibration(read_image(options.image[0]), columns, rows, options.square_mm)


def _by_part(options: argparse.Namespace) -> Calibration:
    import msgspec

    from lineside.commands.gauge.measure import read_rules_file
    from lineside_models.metrology.calibration import known_part_scale, scale_calibration
    from lineside_models.metrology.rules import needs_mm, rule_named
    from lineside_models.vision.images import read_image

    if options.rules is None:
        raise ConfigError("--known", expected="--rules FILE with the rule", action="")
    name, size_mm = options.known
    rules = read_rules_file(options.rules)
    rule = rule_named(rules.measure, name)
    if needs_mm(rule):
        rule = msgspec.structs.replace(rule, unit="px")
    rules = msgspec.structs.replace(rules, measure=(rule,))
    lengths, sizes = [], set()
    for path in options.image:
        image = read_image(path)
        sizes.add((image.shape[1], image.shape[0]))
        (one,) = rules.measured(image)
        if one.value is None or one.unit != "px":
            raise MeasurementError(f"{path}: {one.error or 'a known size needs a length, gap or diameter'}")
        lengths.append(one.value)
    if len(sizes) > 1:
        raise ConfigError("pictures of the known part", expected="one size", actual=sorted(sizes), action="")
    return scale_calibration(known_part_scale(lengths, size_mm), sizes.pop())


def _table(found: Calibration) -> str:
    rows = ", ".join(f"[{', '.join(f'{value:.12g}' for value in row)}]" for row in found.mm_from_px)
    lines = ["[inspect.calibration]", f"size = [{found.size[0]}, {found.size[1]}]", f"mm_from_px = [{rows}]"]
    if found.points:
        lines += [f"radial = {found.radial:.6g}", f"error_mm = {found.error_mm:.3g}", f"points = {found.points}"]
    return "\n".join(lines)


def _size(found: Calibration) -> str:
    return f"{found.size[0]} x {found.size[1]}"


def _board(text: str) -> tuple[int, int]:
    columns, _, rows = text.partition("x")
    if not (columns.isdecimal() and rows.isdecimal() and min(int(columns), int(rows)) >= 3):
        raise argparse.ArgumentTypeError(f"expected inner corners such as 8x6, 3 or more each, not {text!r}")
    return int(columns), int(rows)


def _known(text: str) -> tuple[str, float]:
    name, _, size = text.rpartition("=")
    try:
        size_mm = float(size)
    except ValueError:
        size_mm = 0.0
    if not name or not 0 < size_mm < float("inf"):
        raise argparse.ArgumentTypeError(f"expected RULE=MM such as bore=12.003, not {text!r}")
    return name, size_mm
