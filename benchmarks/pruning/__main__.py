"""python -m benchmarks.pruning [PART ...] [--seed N]: runs parts alone and prints their figures.

With --seed, ``searching`` searches with that seed alone, keeps what it finds and prints nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json

from benchmarks.pruning import PARTS


def main() -> None:
    """Runs the parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruning", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seed", type=int, metavar="N", help="of searching alone")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}")
    if options.seed is not None:
        if options.parts != ["searching"]:
            parser.error("--seed goes with searching alone")
        from benchmarks.pruning.searching import run_seed

        run_seed(options.seed)
        return
    found = {name: importlib.import_module(f"benchmarks.pruning.{name}").run() for name in options.parts or PARTS}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
