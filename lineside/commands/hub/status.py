"""``lineside hub status``."""

from __future__ import annotations

import argparse
from typing import Any

from lineside.commands.hub.keys import print_roles
from lineside.console import print_json, show
from lineside.extras import needs
from lineside.options import add_hub, add_json
from lineside_runtime.wording import counted


def add_actions(actions: Any) -> None:
    """Adds ``status`` to the actions of ``lineside hub``."""
    status = actions.add_parser(
        "status",
        help="expiries, keys, devices, and tasks for a person",
        description="Prints tasks for a person; the exit code is 1 if there are any.",
    )
    add_hub(status)
    add_json(status)
    status.set_defaults(run=run_status)


def run_status(options: argparse.Namespace) -> int:
    """Prints the status; returns 1 if there are tasks for a person."""
    with needs("convert"):
        from lineside_hub.fleet.status import read_status, unheard_reason
    status = read_status(options.hub)
    if options.json:
        print_json(status)
    else:
        devices = counted(status.devices, "device")
        results = "? results" if status.results is None else counted(status.results, "result")
        up = "?" if unheard_reason(options.hub) else status.devices_up
        show(f"{up} of {devices} connected, {results}")
        for used in status.usage:
            show(
                f"{used.device}: {used.results_bytes / 1e6:.1f} MB of results ({used.results_share:.0%} of its quota), "
                f"{used.interactions_bytes / 1e6:.1f} MB of interactions ({used.interactions_share:.0%}), "
                f"{used.frames_bytes / 1e6:.1f} MB of frames ({used.frames_share:.0%})"
            )
        print_roles(status.roles)
        for warning in status.warnings:
            show(f"! {warning}")
    return 1 if status.warnings else 0
