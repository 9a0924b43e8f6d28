"""``lineside recommend``."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

import msgspec

from lineside.console import print_json, show
from lineside.options import add_json, positive
from lineside_runtime.bundle import MANIFEST_NAME
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError

_EPILOG = """\
example:
  lineside recommend parts/bundle --history bearing-6204 seal-22 --top 3
  lineside recommend parts/bundle --history seal-22 --candidates gasket-9 ring-new --attributes ring-new=sealing,viton
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("bundle", type=_bundle, help="a recommender's bundle: its folder, .lsb file or training run")
    parser.add_argument("--history", nargs="*", default=[], metavar="ITEM", help="what was chosen, oldest first")
    parser.add_argument("--candidates", nargs="+", metavar="ITEM", help="items to rank (default: all of the bundle)")
    parser.add_argument(
        "--attributes",
        action="append",
        default=[],
        type=_attributes,
        metavar="ITEM=A,B",
        help="of an item of --history or --candidates that the bundle does not know; repeatable",
    )
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="items at most (default: %(default)s)")
    parser.add_argument("--repeat", action="store_true", help="recommend items of the history again")
    parser.add_argument(
        "--exploration",
        type=float,
        default=0.0,
        metavar="T",
        help="draw the items instead, at this temperature, and print the probability of each (default: the best ones)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the draw (default: another one each time)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the recommended items, best first."""
    from lineside_models.recommendation import Recommender

    described: dict[str, list[str]] = {}
    for item, names in options.attributes:
        described.setdefault(item, []).extend(names)
    named = list(dict.fromkeys((*options.history, *(options.candidates or ()))))
    with Recommender(options.bundle, Config(threads=1), seed=options.seed) as recommender:
        tables = recommender.tables
        new = [item for item in named if tables.rows_of([item])[0] == tables.unknown]
        _refuse_unused(described, named, new)
        found = recommender.recommend(
            options.history,
            options.candidates,
            options.top,
            attributes=described,
            repeat=options.repeat,
            exploration=options.exploration,
        )
        attributes = tables.unknown_attributes(
            list(dict.fromkeys(name for each in described.values() for name in each))
        )
    unknown = [item for item in new if item not in described]
    if options.json:
        print_json(
            {"recommendations": msgspec.to_builtins(found), "unknown": unknown, "unknown_attributes": attributes}
        )
        return 0
    for one in found:
        chance = f"  drawn with probability {one.propensity:.4f}" if options.exploration else ""
        show(f"{one.score:8.3f}  {one.item}{chance}")
    if unknown:
        show(f"not known to this bundle: {', '.join(unknown)}")
    if attributes:
        show(f"attributes not known to this bundle: {', '.join(attributes)}")
    return 0


def _refuse_unused(described: Collection[str], named: Collection[str], new: Collection[str]) -> None:
    for item in described:
        if item not in new:
            raise ConfigError(
                f"--attributes {item}",
                expected="an item of --history or --candidates that the bundle does not know",
                actual="one that the bundle knows" if item in named else "one that is in neither",
                action="Leave it out: attributes of the bundle's own items are in the bundle."
                if item in named
                else "Add it to --candidates, or leave it out.",
            )


def _bundle(text: str) -> Path:
    """Returns the path given, or that of the bundle in it, as in the folder of a training run."""
    path = Path(text)
    inside = path / "bundle"
    return inside if not (path / MANIFEST_NAME).exists() and (inside / MANIFEST_NAME).exists() else path


def _attributes(text: str) -> tuple[str, list[str]]:
    item, separator, names = text.partition("=")
    if not (item and separator):
        raise argparse.ArgumentTypeError(f"expected ITEM=ATTRIBUTE,ATTRIBUTE, not {text!r}")
    return item, [name for name in names.split(",") if name]
