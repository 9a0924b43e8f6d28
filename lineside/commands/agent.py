"""``lineside agent run|status|enroll``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from lineside.commands.output import add_json, print_json, say
from lineside_runtime.errors import InputNotFoundError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    start = actions.add_parser(
        "run", help="run the daemon in the foreground", description="Runs the daemon in the foreground until SIGTERM."
    )
    start.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    start.set_defaults(run=run_agent)
    status = actions.add_parser(
        "status", help="what the agent on this machine is doing", description="Reads the agent's status file."
    )
    status.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    add_json(status)
    status.set_defaults(run=run_status)
    enroll = actions.add_parser(
        "enroll",
        help="get this device's certificate with a token from the hub",
        description="Makes this device's key, and gets its certificate with a token from `lineside hub token`.",
    )
    enroll.add_argument("--token-file", type=Path, required=True, metavar="FILE", help="from `lineside hub token`")
    enroll.add_argument("--out", type=Path, required=True, metavar="DIR", help="where key and certificates go")
    enroll.add_argument("--hub", metavar="URL", help="of the broker (default: the token's)")
    enroll.add_argument("--timeout", type=float, default=120.0, metavar="S", help="default: %(default)s s")
    add_json(enroll)
    enroll.set_defaults(run=run_enroll)


def run_agent(options: argparse.Namespace) -> int:
    """Runs the daemon."""
    from lineside_agent.daemon import run

    return run(options.config)


def run_enroll(options: argparse.Namespace) -> int:
    """Gets the first certificate, and prints the part of agent.toml that names it."""
    from lineside_agent.identity import enroll

    link = enroll(options.token_file, options.out, url=options.hub, timeout_s=options.timeout, say=say)
    if options.json:
        print_json({"link": link, "root": options.out / "root.json"})
        return 0
    say(f"enrolled; {options.token_file} is used and can be deleted. In agent.toml:")
    print(f'root = "{options.out / "root.json"}"\n\n[link]')
    for name in ("url", "site", "ca", "certificate", "key"):
        print(f'{name} = "{getattr(link, name)}"')
    return 0


def run_status(options: argparse.Namespace) -> int:
    """Prints the counters of the agent's status file."""
    from lineside_agent.config import read_config

    path = read_config(options.config).folder / "status.json"
    if not path.is_file():
        raise InputNotFoundError(f"{path} is not there", action="Start the agent with `lineside agent run` first.")
    status: dict[str, Any] = json.loads(path.read_text())
    status["age_s"] = round(time.time() - path.stat().st_mtime, 1)
    if options.json:
        print_json(status)
        return 0
    width = max(len(key) for key in status)
    for key, value in status.items():
        print(f"{key:<{width}}  {value}")
    return 0
