"""``lineside push``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from lineside.commands.output import add_json, print_json
from lineside.commands.passphrases import add_passphrase, passphrase
from lineside.commands.places import bundle_place
from lineside.extras import needs
from lineside_runtime.archive import unpack_archive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the bundle, the hub and the group."""
    parser.add_argument(
        "bundle", type=bundle_place, help="a bundle's folder, a .lsb file, or the name of a shipped bundle"
    )
    parser.add_argument("--hub", type=Path, required=True, metavar="DIR", help="the hub's folder on this machine")
    parser.add_argument("--group", required=True, help="the group of devices")
    add_passphrase(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Signs and publishes the bundle, and makes it the desired one."""
    with needs("convert"):
        from lineside_hub.push import push
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.bundle
        if folder.suffix == ".lsb":
            folder = unpack_archive(folder, Path(scratch) / "bundle").path
        result = push(options.hub, folder, group=options.group, passphrase=passphrase(options))
    if options.json:
        print_json(result)
    else:
        print(f"{result.ref.identity} is what {options.group} should run now (generation {result.gen})")
        print(f"watch it: lineside fleet ls --hub {options.hub}")
    return 0
