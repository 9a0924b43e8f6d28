"""``lineside fleet simulate``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lineside.console import inform, print_json
from lineside.extras import needs
from lineside.options import add_json


def add(actions: Any) -> None:
    parser = actions.add_parser(
        "simulate",
        help="roll out a bundle to many simulated devices on this machine",
        description="Starts a hub, a broker and devices with the agent's own update machine, each of which verifies "
        "TUF and hashes what it received, and rolls a small bundle out while some fail and some lose power.",
    )
    parser.add_argument("--devices", type=int, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--failing", type=float, default=0.01, metavar="SHARE", help="whose health check fails (default: %(default)s)"
    )
    parser.add_argument(
        "--away",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="that lose power, half of them in the middle, and come back (default: %(default)s)",
    )
    parser.add_argument(
        "--bundle-kib", type=int, default=256, metavar="N", help="size of the bundle (default: %(default)s)"
    )
    parser.add_argument(
        "--broker", default="", metavar="URL", help="default: mosquitto if it is installed, else the embedded broker"
    )
    parser.add_argument(
        "--workers", type=int, default=4, metavar="N", help="processes that the devices share (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="for the rollout (default: %(default)s)"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulates and prints the outcome; 1 if a device is in a wrong state."""
    with needs("convert"):
        from rich.console import Console

        from lineside_hub.simulate.fleet import SimulationSettings, simulate
    settings = SimulationSettings(
        devices=options.devices,
        failing=options.failing,
        away=options.away,
        bundle_bytes=options.bundle_kib << 10,
        broker=options.broker,
        workers=options.workers,
        timeout_s=options.timeout,
    )
    console = Console(file=sys.stderr)
    with console.status(f"starting {options.devices} devices") as status:
        outcome = simulate(settings, lambda line: status.update(line))
    if options.json:
        print_json(outcome)
    else:
        inform(
            f"{outcome.right_state} of {outcome.devices} devices are in their right state after {outcome.seconds:.1f} s"
        )
        inform(f"{outcome.failing} were to refuse it, {outcome.away} were away for a while; rollout {outcome.rollout}")
        inform(
            f"hub {outcome.hub_rss_bytes / 1e6:.0f} MB, sent {outcome.bytes_sent / 1e6:.1f} MB ({outcome.bytes_source})"
        )
        for verdict in outcome.wrong:
            inform(f"wrong: {verdict.name}: {verdict.state}, {verdict.installed or 'nothing'} {verdict.error}")
    return 0 if outcome.wrong_state == 0 else 1
