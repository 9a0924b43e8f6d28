"""``lineside demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.console import inform, print_json
from lineside.demo.options import FRAMES_DEFAULT, DemoOptions
from lineside.extras import needs
from lineside.options import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--images", type=Path, metavar="DIR", help="inspect the photos of a folder")
    where.add_argument("--camera", type=int, metavar="N", help="inspect the frames of local camera N")
    where.add_argument("--video", type=Path, metavar="FILE", help="inspect a video")
    parser.add_argument(
        "--frames", type=int, default=FRAMES_DEFAULT, metavar="N", help="how many frames (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="folder of the report (default: %(default)s)"
    )
    parser.add_argument("--broker", metavar="URL", help="use this broker, such as mqtt://127.0.0.1:1883")
    parser.add_argument(
        "--keep", action="store_true", help="keep bundles, repository and agent state beside the report"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the line simulator (default: %(default)s)")
    parser.add_argument(
        "--screen",
        action="store_true",
        help="run an agent with its operator screen and a hub with its dashboard until Ctrl-C instead, and open both "
        "in a browser",
    )
    parser.add_argument("--no-browser", action="store_true", help="with --screen: only print where they are")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the demo and prints its table or its JSON, or runs operator screen and dashboard."""
    settings = DemoOptions(
        out=options.out,
        frames=options.frames,
        images=options.images,
        camera=options.camera,
        video=options.video,
        broker=options.broker,
        keep=options.keep,
        seed=options.seed,
    )
    if options.screen:
        return _run_screen(settings, open_browser=not options.no_browser)
    with needs("convert"):
        from lineside.demo.console import outcome_table
        from lineside.demo.demo import run_demo
    outcome = run_demo(settings)
    if options.json:
        print_json(outcome)
    else:
        outcome_table(outcome)
    inform(f"\nreport: {outcome.report}\ncount it yourself: python tests/demo/recount.py {options.out}")
    return 0 if outcome.lost == 0 and outcome.duplicates == 0 else 1


def _run_screen(settings: DemoOptions, *, open_browser: bool) -> int:
    with needs("web"):  # which also brings all that the operator screen needs
        from lineside.demo.operator_screen import run_screen_demo
    run_screen_demo(settings, open_browser=open_browser)
    return 0
