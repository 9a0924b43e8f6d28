"""``lineside agent run|status|import|enroll``."""

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
    stick = actions.add_parser(
        "import",
        help="take a bundle from a USB stick",
        description="Checks an archive that `lineside hub export` made as if it came over the air, and gives it "
        "to the agent on this machine.",
    )
    stick.add_argument("archive", type=Path, metavar="FILE.lsb")
    stick.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    stick.add_argument("--timeout", type=float, default=120.0, metavar="S", help="how long to wait for the agent")
    add_json(stick)
    stick.set_defaults(run=run_import)
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


def run_import(options: argparse.Namespace) -> int:
    """Checks the archive with a copy of the device's trust, hands it over, and waits for what becomes of it."""
    import shutil
    import tempfile

    from lineside_agent.config import read_config
    from lineside_agent.stick import Stick, put, stick_trust

    config = read_config(options.config)
    stick = Stick(options.archive)
    wish = stick.wish()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "state"
        copy.mkdir()
        if (config.folder / "trust").is_dir():
            shutil.copytree(config.folder / "trust", copy / "trust", symlinks=True)
        if (config.folder / "clock").is_file():
            shutil.copy(config.folder / "clock", copy / "clock")
        bundle = stick.verify(trust=stick_trust(stick, copy, config.root), group=config.group)
    put(options.archive, config.folder)
    say(f"{bundle.identity} is signed for {config.group} and whole")
    status = _wait_for(config.folder / "status.json", wish.epoch, wish.gen, options.timeout)
    error = status.get("error") if status else None
    if options.json:
        print_json({"bundle": bundle, "taken": status is not None, "error": error})
    elif status is None:
        say("the agent has not taken it yet; it will when it runs")
    else:
        say(f"the agent's answer: {status['state']}" + (f", {error}" if error else ""))
    return 1 if error else 0


def _wait_for(path: Path, epoch: int, gen: int, timeout_s: float) -> dict[str, Any] | None:
    """The agent's status once it has answered the wish; ``None`` if it doesn't run or takes too long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            running = time.time() - path.stat().st_mtime < 10.0
            status: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            running, status = False, {}
        if not running:
            return None
        resting = status["state"] in ("active", "idle", "failed", "rolled_back")
        if resting and (status["epoch"], status["gen"]) >= (epoch, gen):
            return status
        time.sleep(0.2)
    return None


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
