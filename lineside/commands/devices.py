"""``lineside devices``."""

from __future__ import annotations

import argparse
import platform
from typing import Any

from lineside.commands.output import add_json, print_json
from lineside_runtime import registry
from lineside_runtime.registry import EngineStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--json``."""
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Lists the engines with their devices, and those that are absent with the reason and what to install."""
    found = registry.engines()
    if options.json:
        machine = {"machine": platform.machine(), "system": platform.platform(), "python": platform.python_version()}
        print_json({**machine, "engines": [_as_json(status) for status in found]})
        return 0
    for status in found:
        if not status.available:
            print(f"{status.name}: absent: {status.reason}\n    to have it: {status.install}")
            continue
        print(f"{status.name} {status.version}")
        for device in status.devices:
            untested = "  (untested on hardware)" if device.kind in status.untested_kinds else ""
            print(f"    {status.name}/{device}  {device.name}{untested}")
    return 0


def _as_json(status: EngineStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "available": status.available,
        "version": status.version,
        "reason": status.reason,
        "install": status.install,
        "devices": [
            {
                "device": f"{status.name}/{device}",
                "kind": device.kind,
                "name": device.name,
                "memory_bytes": device.memory_bytes,
                "tested_on_hardware": device.kind not in status.untested_kinds,
            }
            for device in status.devices
        ],
    }
