"""``lineside fleet ls|show|logs|rollout|results|interactions|recipe|move|release|simulate|pool``."""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lineside.commands.fleet import interactions, pool, recipe, results, rollout, simulate
from lineside.console import add_row, draw, inform, note, one_line, print_json, show
from lineside.extras import needs
from lineside.options import add_hub, add_json, add_watch
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lineside_hub.fleet.listing import DeviceSummary
    from lineside_hub.results.database import TimelineEvent
    from lineside_link.messages import Desired, DriftReport

FOLLOW_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    ls = actions.add_parser(
        "ls", help="list the devices, what they run and their errors", description="Lists the devices."
    )
    add_hub(ls)
    add_watch(ls)
    ls.set_defaults(run=run_ls)
    show = actions.add_parser("show", help="show one device", description="Shows one device.")
    show.add_argument("device", help="its name")
    add_hub(show)
    add_json(show)
    show.set_defaults(run=run_show)
    logs = actions.add_parser(
        "logs",
        help="print the timeline of a device",
        description="Prints the timeline of a device, or of all: connections, states, pushes, rollouts, bad messages.",
    )
    logs.add_argument("device", nargs="?", help="its name (default: all devices and the hub)")
    logs.add_argument("--follow", action="store_true", help="keep printing new entries until Ctrl-C")
    add_hub(logs)
    add_json(logs)
    logs.set_defaults(run=run_logs)
    rollout.add(actions)
    results.add(actions)
    interactions.add(actions)
    recipe.add(actions)
    pool.add(actions)
    move = actions.add_parser(
        "move",
        help="move a device to another group",
        description="Assigns a device to another group and rewrites the broker's access list. A person must then set "
        "the group in the device's agent.toml, because the hub may not change whose signatures a device trusts.",
    )
    move.add_argument("device", help="its name")
    move.add_argument("group", help="its new group")
    add_hub(move)
    add_json(move)
    move.set_defaults(run=run_move)
    release = actions.add_parser(
        "release",
        help="let a device follow its group again",
        description="Withdraws the device's own desired state.",
    )
    release.add_argument("device", help="its name")
    add_hub(release)
    add_json(release)
    release.set_defaults(run=run_release)
    simulate.add(actions)


def run_ls(options: argparse.Namespace) -> int:
    """Prints a line a device, or one JSON object."""
    with needs("convert"):
        from lineside_hub.fleet.listing import list_devices
        from lineside_hub.fleet.status import try_warnings, unheard_reason
    known = list_devices(options.hub, with_counts=False)  # a folder that is no hub's is one error, without warnings
    warnings = list(dict.fromkeys(filter(None, (unheard_reason(options.hub), *try_warnings(options.hub)))))
    if options.json:
        print_json({"devices": list_devices(options.hub), "warnings": warnings})
        return 0
    for warning in warnings:
        inform(f"! {warning}")
    if not known:
        inform(f"no device has connected yet; enroll one: lineside hub enroll DEVICE --hub {options.hub} --group G")
    draw(lambda: (_table(list_devices(options.hub), heard=not unheard_reason(options.hub)), False), watch=options.watch)
    return 0


def _table(devices: list[DeviceSummary], *, heard: bool) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("device", "group", "up", "state", "runs", "config", "agent", "results"):
        table.add_column(name, justify="right" if name == "results" else "left", overflow="fold")
    for device in devices:
        state = f"{device.state} {device.progress:.0%}" if device.state == "fetching" else device.state
        group = f"{device.group} (says {device.said_group})" if device.said_group else device.group
        up = ("yes" if device.up else "no") if heard else "?"
        runs, config = device.installed or "-", _config(device)
        add_row(table, device.name, group, up, state, runs, config, _agent(device), _number(device.results))
    return Group(table, *(note(device.name, problem) for device in devices for problem in _problems(device)))


def _number(count: int | None) -> str:
    """A number of results, which may not be known."""
    return "?" if count is None else str(count)


def _problems(device: DeviceSummary) -> Iterator[str]:
    """Yields what is wrong with a device, a line each."""
    if device.error:
        yield f"bundle: {device.error}"
    if device.device_problem:
        yield f"device {device.used_device}: {device.device_problem}"
    for alarm in device.drift:
        yield f"drift: {alarm}"
    if device.configuration_error:
        yield f"configuration: {device.configuration_error}"
    if device.agent_error:
        yield f"agent: {device.agent_error}"


def _config(device: DeviceSummary) -> str:
    """The active configuration, and the desired one if it differs."""
    has, wanted = (name.removeprefix("config@") for name in (device.configuration, device.wanted_configuration))
    return f"{has or 'own'}, wanted {wanted}" if wanted and wanted != has else has or "-"


def _agent(device: DeviceSummary) -> str:
    settled = device.agent_state in ("", "idle", "active")
    return (device.agent or "-") if settled else f"{device.agent}, {device.agent_state}"


def run_show(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.fleet.listing import show_device
        from lineside_hub.fleet.status import unheard_reason
    detail = show_device(options.hub, options.device)
    if options.json:
        print_json(detail)
        return 0
    about, born, said = detail.summary, detail.birth, detail.reported
    own, group = detail.own_desired, detail.group_desired
    silent = unheard_reason(options.hub)
    lines = {
        "device": f"{about.name}, {'up' if about.up else 'away'}"
        + (f" when it was last heard: {silent}" if silent else ""),
        "group": about.group + (f" (it says {about.said_group}: set it in its agent.toml)" if about.said_group else ""),
        "board": about.board,
        "agent": _agent(about) + (f": {about.agent_error}" if about.agent_error else ""),
        "engines": ", ".join(f"{name} {version}" for name, version in born.engines.items()) if born else "",
        "state": f"{about.state} (desired state {said.gen})" if said else about.state,
        "waits for": about.waiting,
        "ignores": said.ignored if said else "",
        "runs": about.installed,
        "runs on": _device_use(about),
        "before": said.previous.identity if said and said.previous else "",
        "configuration": about.configuration or "its own agent.toml",
        "desired alone": _desired(own),
        "desired, group": _desired(group),
        "error": "; ".join(text for text in (about.error, about.configuration_error) if text),
        "rolled back": "; ".join(detail.rolled_back),
        "drift": "; ".join(about.drift) or (_drift(said.drift) if said and said.drift else ""),
        "recipe": said.recipe if said else "",
        "reduced": said.degradation.text or "nothing" if said and said.degradation else "",
        "free": f"{said.free_bytes / 1e9:.1f} GB" if said and said.free_bytes else "",
        "results": _number(about.results),
    }
    for name, value in lines.items():
        show(f"{name:<15}{one_line(value) or '-'}")
    return 0


def _device_use(about: DeviceSummary) -> str:
    """The device that runs the model, why not the first one, and what fallbacks and cache did."""
    if not about.used_device:
        return ""
    problem = f": {about.device_problem}" if about.device_problem else ""
    counts = f"; {counted(about.fallbacks, 'call')} on another device" if about.fallbacks else ""
    counts += f"; {counted(about.cache_hits, 'call')} answered by the cache" if about.cache_hits else ""
    return f"{about.used_device} (requested {about.requested_device}){problem}{counts}"


def _desired(state: Desired | None) -> str:
    """The bundle, the agent and the configuration that are desired."""
    parts = (state.bundle, state.agent, state.config) if state is not None else ()
    return ", ".join(part.identity for part in parts if part is not None)


def _drift(report: DriftReport) -> str:
    return "learning" if report.learning else "none"


def run_logs(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.config import folder_config_or_default
        from lineside_hub.fleet.listing import check_known, timeline
    if options.device:
        check_known(folder_config_or_default(options.hub), options.device)
    entries = timeline(options.hub, options.device)
    if options.json:
        print_json({"events": [event for _, event in entries]})
        return 0
    seen = 0
    while True:
        for seen, event in entries:  # noqa: B007 - the last one's number
            show(_line(event), flush=True)
        if not options.follow:
            return 0
        time.sleep(FOLLOW_S)
        entries = timeline(options.hub, options.device, after=seen)


def _line(event: TimelineEvent) -> str:
    at = datetime.datetime.fromtimestamp(event.at_ns / 1e9).isoformat(" ", "seconds")
    code = f"[{event.code}] " if event.code else ""
    return one_line(f"{at}  {event.device or 'hub':<20}{event.kind:<14}{event.bundle:<28}{code}{event.detail}".rstrip())


def run_move(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.fleet.groups import move
        from lineside_hub.identity.broker_reload import reload_broker
    moved = move(options.hub, options.device, options.group)
    reload = reload_broker(options.hub) if moved.access_list is not None else None
    if options.json:
        print_json(moved)
        return 0
    inform(f"{moved.device} belongs to {moved.group} now" + (f"; before: {moved.before}" if moved.before else ""))
    if reload is not None:
        inform(reload.message)
    if moved.said != moved.group:
        inform(
            f'on {moved.device}: set group = "{moved.group}" in agent.toml and restart the agent; until then it waits'
        )
    return 0


def run_release(options: argparse.Namespace) -> int:
    """Withdraws the own desired state of a device."""
    with needs("convert"):
        from lineside_hub.rollouts.push import release
    had_one = release(options.hub, options.device)
    if options.json:
        print_json({"device": options.device, "released": had_one})
        return 0
    inform(f"{options.device} follows its group" + (" again" if had_one else "; it had no desired state of its own"))
    return 0
