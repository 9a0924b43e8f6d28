"""``lineside fleet ls``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.commands.output import add_json, print_json
from lineside.extras import needs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the one action."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    ls = actions.add_parser("ls", help="every device, what it runs and why not", description="Lists the devices.")
    ls.add_argument("--hub", type=Path, required=True, metavar="DIR", help="the hub's folder on this machine")
    add_json(ls)
    ls.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints a line a device, or one JSON object."""
    with needs("convert"):
        from lineside_hub.listing import list_devices
    devices = list_devices(options.hub)
    if options.json:
        print_json({"devices": devices})
        return 0
    print(f"{'device':<20}{'group':<16}{'up':<5}{'state':<14}{'runs':<28}results")
    for device in devices:
        runs = device.installed or "-"
        up = "yes" if device.up else "no"
        print(f"{device.name:<20}{device.group:<16}{up:<5}{device.state:<14}{runs:<28}{device.results}")
        if device.error:
            print(f"    {device.error}")
    return 0
