"""``lineside board profiles``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lineside.console import print_json, show
from lineside.options import Actions, add_json

if TYPE_CHECKING:
    from lineside_boards.profile import BoardProfile


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "profiles",
        help="list the known boards, or show one with the source of each fact",
        description="Lists the known boards, or shows one with the source of each fact.",
    )
    parser.add_argument("board", nargs="?", help="a board, or your own .toml file (default: list all)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the list, or one profile."""
    from lineside_boards import profile

    if options.board is not None:
        one = profile.load(options.board)
        if options.json:
            print_json(one)
        else:
            show("\n".join(_page(one)))
        return 0
    everything = [profile.load(name) for name in profile.names()]
    if options.json:
        print_json({"boards": everything})
        return 0
    for one in everything:
        tested = "" if one.tested.hardware != "nothing" else "  (untested on hardware)"
        show(f"{one.name:<17} {one.board.title:<33} {', '.join(one.engines.order)}{tested}")
    return 0


def _page(one: BoardProfile) -> list[str]:
    import msgspec

    lines = [f"{one.name}: {one.board.title}"]
    for table, facts in msgspec.structs.asdict(one).items():
        if not isinstance(facts, msgspec.Struct):
            continue
        lines += ["", f"[{table}]"]
        values = sorted(msgspec.structs.asdict(facts).items(), key=lambda item: item[0] == "unconfirmed")
        for key, value in values:
            shown = ", ".join(value) if isinstance(value, tuple) else value
            lines += [f"  {key}: {shown}"] if shown not in ("", None) else []
    return lines
