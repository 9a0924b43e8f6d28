"""``lineside gauge locate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.console import inform, print_json, show
from lineside.options import add_json

HELP = "make measuring rules follow the part"
DESCRIPTION = (
    "Finds the part in the picture for which the rules were drawn, and prints the table [inspect.locate]. With it the "
    "rules follow the shift and the rotation of the part, by less than 90 degrees to each side. The part must be "
    "darker or brighter than the ground, and lie whole inside the frame."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, help="the picture")
    parser.add_argument("--inside", choices=("dark", "bright"), required=True, help="the part against the ground")
    parser.add_argument("--level", type=float, required=True, metavar="G", help="grey level between both, 0 to 255")
    parser.add_argument("--shift-only", action="store_true", help="do not follow the rotation, as for a round part")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Finds the part and prints the table."""
    from lineside_models.metrology.locator import find_part
    from lineside_models.preprocess import to_grey
    from lineside_models.vision.images import read_image

    found = find_part(to_grey(read_image(options.image)), options.inside, options.level)
    if options.json:
        print_json(found)
        return 0
    lines = ["[inspect.locate]", f'inside = "{options.inside}"', f"level = {options.level:g}"]
    lines.append(f"centre = [{found.centre[0]:.2f}, {found.centre[1]:.2f}]")
    if found.angle is not None and not options.shift_only:
        lines.append(f"angle = {found.angle:.2f}")
    show("\n".join([*lines, f"area = {found.area:.0f}"]))
    if found.angle is None:
        inform("the part has no long axis: the rules will follow its shift alone")
    return 0
