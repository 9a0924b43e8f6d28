"""``python -m benchmarks.soak [--seconds S] [--out FOLDER]``: exit code 1 if memory or handles grow."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import soak

SECONDS = 7200.0


def main() -> int:
    """Runs the soak and prints its figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="The agent at full speed for hours, watched from outside. Exit code 1 if its memory grows by more "
        "than 2 % after the warm-up, or its file handles or threads grow at all.",
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=f"how long ({SECONDS:g})")
    parser.add_argument("--out", type=Path, default=Path("soak-out"), metavar="FOLDER", help="results (soak-out)")
    options = parser.parse_args()
    found = soak.run(seconds=options.seconds, out=options.out)
    print(json.dumps(found, indent=1))
    for problem in found["problems"]:
        print(f"not flat: {problem}", file=sys.stderr)
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
