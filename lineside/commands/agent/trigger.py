"""``lineside agent trigger``."""

from __future__ import annotations

import argparse
from typing import Any, Literal

from lineside.console import print_json, show
from lineside.options import Actions, add_agent_config, add_json


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    trigger = actions.add_parser(
        "trigger",
        help="inspect a part now",
        description="Triggers the agent on this machine, as the line would, and waits for the verdict. Ends with 1 if "
        "the part is rejected. The agent's configuration needs a [trigger] table.",
    )
    add_agent_config(trigger)
    trigger.add_argument("--part", default="", metavar="ID", help="the part's id for the record")
    what = trigger.add_mutually_exclusive_group()
    what.add_argument("--reset", action="store_true", help="reset a fault instead, as the operator does")
    what.add_argument("--challenge", action="store_true", help="start a shift instead: challenge parts follow")
    add_json(trigger)
    trigger.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Sends the request to the agent's local socket."""
    from lineside_agent.config import read_config
    from lineside_agent.line_io.local import TriggerRequest, ask

    config = read_config(options.config)
    do: Literal["trigger", "reset", "challenge"]
    do = "reset" if options.reset else "challenge" if options.challenge else "trigger"
    answer = ask(config.folder, TriggerRequest(do, options.part))
    if options.json:
        print_json(answer)
    elif do == "trigger":
        show(f"{answer['verdict']}  {answer['part_id']}  {answer['code']}  {answer['took_ms']:.1f} ms{_found(answer)}")
    return 0 if do != "trigger" or answer["verdict"] == "pass" else 1


def _found(answer: dict[str, Any]) -> str:
    """Returns the defects in an answer as text; an earlier agent sends none."""
    if not answer.get("defect"):
        return ""
    others = f" and {answer['defects'] - 1} more" if answer["defects"] > 1 else ""
    return f"  {answer['defect']} {answer['score']:.2f}{others}, camera {answer['camera']}"
