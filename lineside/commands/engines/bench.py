"""``lineside bench``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.console import inform, print_json, show
from lineside.options import add_json, bundle_path, integers, positive, words
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle", type=bundle_path, help="a bundle's folder, a .lsb file, or the name of a shipped bundle"
    )
    parser.add_argument(
        "--against",
        type=bundle_path,
        action="append",
        default=[],
        metavar="BUNDLE",
        help="bundle to compare with; repeatable",
    )
    parser.add_argument("--engines", type=words, metavar="A,B", help="compare these engines, or `all` that can run it")
    parser.add_argument("--level", type=integers, metavar="N,M", help="compare these optimization levels")
    parser.add_argument("--threads", type=int, metavar="N", help="of a call on a CPU (default: the engine's choice)")
    parser.add_argument("--batch", type=integers, default=(1,), metavar="N,M", help="frames in a call (default: 1)")
    parser.add_argument("--streams", type=integers, default=(1,), metavar="N,M", help="callers at once (default: 1)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (default: as many as fit into 10 s)")
    parser.add_argument(
        "--processes",
        type=int,
        default=3,
        metavar="N",
        help="processes for start and memory (default: %(default)s)",
    )
    parser.add_argument("--profile", action="store_true", help="also measure each operator")
    parser.add_argument("--data", type=Path, metavar="DIR", help="measure the accuracy on this annotated dataset")
    parser.add_argument("--fold", default="all", help="fold of the dataset (default: %(default)s)")
    parser.add_argument("--max-frames", type=positive, metavar="N", help="at most so many frames")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures, and prints a table or JSON."""
    from lineside_runtime.benchmark import Benchmark, table, write_page

    judge = None
    if options.data is not None:
        from lineside.commands.engines.accuracy import on_data

        judge = on_data(options.data, options.fold, max_frames=options.max_frames)
    if options.html is not None and not options.html.absolute().parent.is_dir():  # before minutes of measurement
        raise ConfigError("--html", expected="a file in an existing folder", actual=options.html)
    report = Benchmark(
        options.bundle,
        Config(threads=options.threads),
        against=options.against,
        engines="all" if options.engines == ("all",) else options.engines,
        levels=options.level,
        batches=options.batch,
        streams=options.streams,
        rounds=options.rounds,
        alone_runs=options.processes,
        judge=judge,
    ).run(profile=options.profile, on_progress=inform)
    if options.html is not None:
        write_page(report, options.html)
        inform(f"wrote {options.html}")
    if options.json:
        print_json(report)
    else:
        show(table(report))
    return 0
