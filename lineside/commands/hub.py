"""``lineside hub init|run|broker|enroll``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lineside.commands.output import say
from lineside.extras import needs
from lineside_runtime.errors import InputNotFoundError

PASSPHRASE_VARIABLE = "LINESIDE_PASSPHRASE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    init = actions.add_parser(
        "init", help="make a hub's folder: keys, repository, hub.toml", description="Makes a hub's folder."
    )
    init.add_argument("folder", type=Path, help="a new folder")
    init.add_argument("--site", required=True, help="name of the site, such as plant-1")
    init.add_argument("--group", action="append", required=True, metavar="NAME", help="a group of devices; repeatable")
    init.add_argument("--broker", default="mqtt://127.0.0.1:1883", metavar="URL", help="default: %(default)s")
    add_passphrase(init)
    init.set_defaults(run=run_init)
    start = actions.add_parser("run", help="run the hub in the foreground", description="Runs the hub until SIGTERM.")
    start.add_argument("--config", type=Path, required=True, metavar="FILE", help="hub.toml")
    start.set_defaults(run=run_hub)
    broker = actions.add_parser(
        "broker",
        help="the embedded broker, for a first try on one machine",
        description="Runs an MQTT broker on the loopback interface, without passwords, until SIGTERM.",
    )
    broker.add_argument("--port", type=int, default=1883, help="default: %(default)s")
    broker.set_defaults(run=run_broker)
    enroll = actions.add_parser(
        "enroll",
        help="key and certificate of a device, and the broker's files",
        description="Makes a device's key and certificate, and the files that mosquitto needs to know it.",
    )
    enroll.add_argument("device", help="name of the device: its certificate's common name")
    enroll.add_argument("--config", type=Path, required=True, metavar="FILE", help="hub.toml")
    enroll.add_argument("--group", required=True, help="the group that it belongs to")
    enroll.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for the device's files")
    enroll.set_defaults(run=run_enroll)


def add_passphrase(parser: argparse.ArgumentParser) -> None:
    """Adds the option that says where the passphrase of the offline keys is; never the passphrase itself."""
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help=f"holds the passphrase of the offline keys (or set {PASSPHRASE_VARIABLE}); none: they are not encrypted",
    )


def passphrase(options: argparse.Namespace) -> str | None:
    """Returns the passphrase from the file or the environment, or ``None``.

    Raises:
        InputNotFoundError: The file is not there.
    """
    if options.passphrase_file is None:
        return os.environ.get(PASSPHRASE_VARIABLE)
    path: Path = options.passphrase_file
    if not path.is_file():
        raise InputNotFoundError(f"{path} is not there", action="Write the passphrase into that file first.")
    return path.read_text().rstrip("\n")


def run_init(options: argparse.Namespace) -> int:
    """Makes keys, repository and configuration."""
    with needs("convert"):
        from lineside_hub.config import write_config

        from lineside_hub.repository import Repository
    Repository.create(options.folder, groups=options.group, passphrase=passphrase(options))
    config = write_config(options.folder, site=options.site, url=options.broker)
    say(f"made {options.folder}: the root that devices must trust is {options.folder / 'root.json'}")
    say(f"next: lineside hub run --config {config}")
    return 0


def run_hub(options: argparse.Namespace) -> int:
    """Runs the hub."""
    with needs("convert"):
        from lineside_hub.server import run
    return run(options.config)


def run_broker(options: argparse.Namespace) -> int:
    """Runs the embedded broker."""
    with needs("convert"):
        from lineside_hub.broker import run_broker as serve
    return serve("127.0.0.1", options.port)


def run_enroll(options: argparse.Namespace) -> int:
    """Makes a device's identity."""
    with needs("convert"):
        from lineside_hub.identity import enroll_device
    files = enroll_device(options.config, options.device, group=options.group, out=options.out)
    for path in files:
        say(f"wrote {path}")
    return 0
