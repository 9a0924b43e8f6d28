"""``lineside agent drift``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lineside.console import inform, print_json, show
from lineside.options import Actions, add_agent_config, add_json
from lineside_runtime.errors import InputNotFoundError


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    drift = actions.add_parser(
        "drift",
        help="show whether the camera or the model's answers have drifted",
        description="Shows what the agent on this machine has learned and the alarms that are on. Ends with 1 if "
        "there is one. The agent's configuration needs a [drift] table.",
    )
    add_agent_config(drift)
    what = drift.add_mutually_exclusive_group()
    what.add_argument("--clear", action="store_true", help="end the alarms, keep what was learned")
    what.add_argument("--relearn", action="store_true", help="learn again from the next frames, after a wanted change")
    add_json(drift)
    drift.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the state of the drift monitor, or sends it a request."""
    from lineside_agent.config import read_config
    from lineside_agent.health.drift.monitor import request

    folder = read_config(options.config).folder
    path = folder / "status.json"
    if not path.is_file():
        raise InputNotFoundError(f"{path} is not there", action="Start the agent with `lineside agent run` first.")
    drift = json.loads(path.read_text()).get("drift")
    if drift is None:
        raise InputNotFoundError("this agent doesn't watch for drift", action="Add [drift] to its agent.toml.")
    if options.clear or options.relearn:
        request(folder, "clear" if options.clear else "relearn")
        if options.json:
            print_json({"done": True})
        else:
            inform("there is no alarm" if options.clear and not drift["alarm"] else "done")
        return 0
    if options.json:
        print_json(drift)
    else:
        _print(drift)
    return int(drift["alarm"])


def _print(drift: dict[str, Any]) -> None:
    learned = f"{drift['frames_learned']} frames and {drift['verdicts_learned']} verdicts learned"
    show(f"{'state':<9}{drift['state']}, {learned}")
    for place, text in enumerate(drift["alarms"] or ["none"]):
        show(f"{'' if place else 'alarms':<9}{text}")
    if drift["nearest"] is not None:
        show(f"{'nearest':<9}{drift['nearest']}, at {drift['nearest_share']:.0%} of its limit")
    recent = [f"{key.removeprefix('recent_')} {value:g}" for key, value in drift.items() if key.startswith("recent_")]
    if recent:
        show(f"{'recent':<9}{', '.join(recent)}")
