"""``lineside fleet rollout ls|show|pause|resume|abort``."""

from __future__ import annotations

import argparse
import datetime
from typing import TYPE_CHECKING, Any

from lineside.console import add_row, draw, inform, note, print_json
from lineside.extras import needs
from lineside.options import add_hub, add_json, add_watch

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lineside_hub.fleet.listing import RolloutSummary


def add(actions: Any) -> None:
    rollout = actions.add_parser("rollout", help="list, watch, pause, resume or abort rollouts")
    orders = rollout.add_subparsers(metavar="ACTION", required=True)
    ls = orders.add_parser("ls", help="all rollouts, oldest first", description="Lists the rollouts.")
    add_hub(ls)
    ls.add_argument("--group", help="only of this group")
    add_watch(ls)
    ls.set_defaults(run=run_show, rollout=None)
    show = orders.add_parser("show", help="one rollout and its devices", description="Shows one rollout.")
    show.add_argument("rollout", help="its id, from `push` or `rollout ls`")
    add_hub(show)
    add_watch(show)
    show.set_defaults(run=run_show, group=None)
    summaries = {
        "pause": "target no further devices; failures still roll it back",
        "resume": "go on",
        "abort": "stop, and restore the group's previous desired state",
    }
    for order, summary in summaries.items():
        parser = orders.add_parser(order, help=summary, description=summary[0].upper() + summary[1:] + ".")
        parser.add_argument("rollout", help="its id")
        add_hub(parser)
        add_json(parser)
        parser.set_defaults(run=run_order, order=order)


def run_show(options: argparse.Namespace) -> int:
    """Prints one rollout or all."""
    with needs("convert"):
        from lineside_hub.fleet.listing import list_rollouts
        from lineside_hub.fleet.status import unheard_reason
        from lineside_hub.repository.repository import Repository
    if options.group:
        Repository.open(options.hub).roles.check_group(options.group)

    def look() -> list[RolloutSummary]:
        return list_rollouts(options.hub, group=options.group, rollout=options.rollout)

    if options.json:
        found = look()
        print_json(found[0] if options.rollout else {"rollouts": found})
        return 0
    draw(
        lambda: _picture(look(), one=options.rollout is not None, silent=unheard_reason(options.hub)),
        watch=options.watch,
    )
    return 0


def _picture(rollouts: list[RolloutSummary], *, one: bool, silent: str) -> tuple[RenderableType, bool]:
    from rich.console import Group
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("rollout", "what", "state", "phase", "healthy", "failed", "working", "away", "since"):
        table.add_column(name, justify="right" if name in ("healthy", "failed", "working", "away") else "left")
    for summary in rollouts:
        add_row(table, *_cells(summary))
    reasons = [note(one.rollout.id, one.rollout.reason) for one in rollouts if one.rollout.reason]
    reasons += [note(one.rollout.id, text) for one in rollouts if (text := _waiting(one))]
    if silent and (waiting := [one.rollout.id for one in rollouts if one.rollout.unfinished]):
        reasons.append(note(", ".join(waiting), f"waits: {silent}"))
    return Group(table, *reasons), one and not rollouts[0].rollout.unfinished


def _waiting(summary: RolloutSummary) -> str:
    """Until when a healthy stage waits; empty while it is not healthy, or without an end."""
    rollout, until_s = summary.rollout, summary.rollout.settled_until_s
    if until_s is None or rollout.state != "running":
        return ""
    until = datetime.datetime.fromtimestamp(until_s).isoformat(" ", "seconds")
    then = "it is completed" if rollout.whole_group else "the next phase begins"
    return f"all that answered are healthy; if that lasts until {until}, {then}"


def _cells(summary: RolloutSummary) -> tuple[str, ...]:
    rollout, found = summary.rollout, summary.count
    stages = len(rollout.plan.stages) + 1
    phase = "all" if rollout.whole_group else f"{rollout.stage + 1} of {stages}"
    since = datetime.datetime.fromtimestamp(rollout.created_at_s).isoformat(" ", "seconds")
    state, what = rollout.state, f"{rollout.kind} {rollout.target.identity}"
    if not rollout.unfinished:  # what devices say now answers a later push
        return rollout.id, what, state, phase, "", "", "", "", since
    working, away = str(found.pending + found.shed), str(found.offline)
    return rollout.id, what, state, phase, f"{found.healthy}/{summary.members}", str(found.failed), working, away, since


def run_order(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.results.database import Database
        from lineside_hub.rollouts.runner import Rollouts
    with Database.open(options.hub) as database:
        after = Rollouts(database).order(options.rollout, options.order)
    if options.json:
        print_json(after)
    else:
        inform(f"{after.id} is {after.state}")
    return 0
