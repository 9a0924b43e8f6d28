"""``python -m benchmarks [NAME ...]``: runs benchmarks and writes ``benchmarks/results/NAME.json``."""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks import harness
from benchmarks.registry import BENCHMARKS, Benchmark, select, table


def main(arguments: list[str]) -> int:
    """Runs the named benchmarks, or all that are not long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a benchmark, or a group such as optimizer; default: all but the long"
    )
    parser.add_argument("--list", action="store_true", help="print the table of benchmarks")
    parser.add_argument("--json", action="store_true", help="print the results on stdout as one JSON object")
    parser.add_argument("--smoke", action="store_true", help="run each once, as small as it gets; write no results")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="of work, for soak and for each training of yolo11n and few_defects.fine_tuning",
    )
    options = parser.parse_args(arguments)
    if options.list:
        print(table())
        return 0
    if options.smoke and (options.json or options.minutes is not None):
        parser.error("--smoke goes with neither --json nor --minutes")
    try:
        chosen = select(options.names)
    except KeyError as unknown:
        parser.error(f"no benchmark {unknown}: python -m benchmarks --list")
    failed = harness.smoke(chosen or tuple(BENCHMARKS.values())) if options.smoke else _run(chosen, options, parser)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(chosen: tuple[Benchmark, ...], options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    chosen = chosen or tuple(each for each in BENCHMARKS.values() if not each.long)
    if options.minutes is not None:
        for each in chosen:
            if "minutes" not in harness.parameters(each):
                parser.error(f"{each.name} takes no --minutes")
    found, failed = harness.run(chosen, minutes=options.minutes)
    if options.json:
        print(json.dumps(found))
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
