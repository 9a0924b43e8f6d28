"""``python -m benchmarks.figures [--check] [--root FOLDER]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.figures.blocks import blocks
from benchmarks.figures.pages import problems, write
from benchmarks.figures.results import FiguresError


def main(arguments: list[str]) -> int:
    """Renders the blocks, or checks them: exit code 1 if there is a problem."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.figures",
        description="Render the tables of figures in the Markdown pages from benchmarks/results/*.json.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page differs")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="of the repository")
    options = parser.parse_args(arguments)
    if options.check:
        found = list(problems(options.root, blocks()))
        print("\n".join(found), end="\n" if found else "", file=sys.stderr)
        return 1 if found else 0
    try:
        for page in write(options.root, blocks()):
            print(f"rendered {page.relative_to(options.root)}", file=sys.stderr)
    except FiguresError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
