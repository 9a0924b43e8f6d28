"""``lineside agent import``."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from lineside.console import inform, print_json
from lineside.options import Actions, add_agent_config, add_json


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "import",
        help="import a bundle from a USB stick",
        description="Checks an archive from `lineside hub export` like a bundle from the hub, and hands it to the "
        "agent on this machine.",
    )
    parser.add_argument("archive", type=Path, metavar="FILE.lsb")
    add_agent_config(parser)
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="wait so long for the agent (default: %(default)s s)"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Verifies the archive with a copy of the device's trust, hands it over, and waits for the agent's answer."""
    from lineside_agent.config import read_config
    from lineside_agent.deployment.offline_import import OfflineArchive, archive_trust, copy_in

    config = read_config(options.config)
    archive = OfflineArchive(options.archive)
    desired = archive.desired()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "state"
        copy.mkdir()
        if (config.folder / "trust").is_dir():
            shutil.copytree(config.folder / "trust", copy / "trust", symlinks=True)
        if (config.folder / "clock").is_file():
            shutil.copy(config.folder / "clock", copy / "clock")
        bundle = archive.verify(trust=archive_trust(archive, copy, config.root), group=config.group)
    copy_in(options.archive, config.folder)
    inform(f"{bundle.identity} is complete and signed for {config.group}")
    status = _wait_for(config.folder / "status.json", desired.epoch, desired.gen, options.timeout)
    error = status.get("error") if status else None
    if options.json:
        print_json({"bundle": bundle, "taken": status is not None, "error": error})
    elif status is None:
        inform("the agent has not imported it yet; it will when it runs")
    else:
        inform(f"the agent's answer: {status['state']}" + (f", {error}" if error else ""))
    return 1 if error else 0


def _wait_for(path: Path, epoch: int, gen: int, timeout_s: float) -> dict[str, Any] | None:
    """Returns the agent's status once it has reached the desired state; ``None`` if it is not running or too slow."""
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
