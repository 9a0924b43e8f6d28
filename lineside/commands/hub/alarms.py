"""``lineside hub alarms``."""

from __future__ import annotations

import argparse
import datetime
import getpass
import time
from pathlib import Path
from typing import Any

from lineside.console import inform, print_json, printable, show
from lineside.extras import needs
from lineside.options import add_json
from lineside_runtime.errors import InputError


def add_actions(actions: Any) -> None:
    alarms = actions.add_parser(
        "alarms",
        help="alarms of the fleet: list, acknowledge, try the notices",
        description="Lists the open alarms, the most urgent first; the exit code is 1 if there are any.",
    )
    _add_hub(alarms, default=None)
    add_json(alarms)
    alarms.add_argument("--closed", action="store_true", help="the last 50 closed alarms instead")
    alarms.set_defaults(run=run_list)
    of_alarms = alarms.add_subparsers(metavar="ACTION")
    acknowledge = of_alarms.add_parser(
        "acknowledge", help="say that somebody has seen an alarm", description="Acknowledges an alarm."
    )
    acknowledge.add_argument("number", type=int, metavar="NUMBER", help="of the alarm, from the list")
    acknowledge.add_argument("--note", default="", help="what is being done")
    _add_hub(acknowledge, default=argparse.SUPPRESS)
    acknowledge.set_defaults(run=run_acknowledge)
    test = of_alarms.add_parser(
        "test",
        help="send a test notice by e-mail and to each webhook",
        description="Sends a test notice to each channel of [alarms] in hub.toml; the exit code is 1 if one fails.",
    )
    _add_hub(test, default=argparse.SUPPRESS)
    test.set_defaults(run=run_test)


def _add_hub(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """Adds ``--hub``, which may stand before and behind the name of an action; `_hub` asks for it."""
    parser.add_argument(
        "--hub", type=Path, default=default, metavar="DIR", help="the hub's folder on this machine; required"
    )


def _hub(options: argparse.Namespace) -> Path:
    folder: Path | None = options.hub
    if folder is None:
        raise InputError("--hub is missing", expected="the hub's folder on this machine", action="")
    return folder


def run_list(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.alarms.storage import channel_status, closed_alarms, open_alarms
        from lineside_hub.results.database import Database
    with Database.open(_hub(options)) as database:
        found = closed_alarms(database) if options.closed else open_alarms(database)
        channels = channel_status(database)
    if options.json:
        print_json({"alarms": found, "channels": channels})
    else:
        for alarm in found:
            at = datetime.datetime.fromtimestamp(alarm.raised_at_ns / 1e9).astimezone()
            seen = f", acknowledged by {alarm.acknowledged_by}" if alarm.acknowledged_by else ""
            subject = f" {alarm.device}" if alarm.device else ""
            what = f"{alarm.id}  {at:%Y-%m-%d %H:%M:%S}  {alarm.priority}  {alarm.state}{seen}  {alarm.rule}{subject}"
            show(printable(f"{what}: {alarm.detail}"))
        for channel in channels:
            if channel.error:
                inform(printable(f"{channel.waiting} notices wait for {channel.channel}: {channel.error}"))
        if not found:
            inform("no alarms")
    return 1 if found and not options.closed else 0


def run_acknowledge(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.alarms.notification import channels_for
        from lineside_hub.alarms.storage import acknowledge_alarm, find_alarm
        from lineside_hub.config import folder_config_or_default
        from lineside_hub.results.database import Database
    config = folder_config_or_default(_hub(options)).alarms
    with Database.open(_hub(options)) as database:
        priority = find_alarm(database, options.number).priority
        alarm = acknowledge_alarm(
            database,
            options.number,
            by=getpass.getuser(),
            note=options.note,
            channels=channels_for(config, "acknowledged", priority),
        )
    show(printable(f"alarm {alarm.id} ({alarm.rule} {alarm.device}) is {alarm.state}"))
    return 0


def run_test(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.alarms.machine import FleetAlarm
        from lineside_hub.alarms.notification import make_channels, try_channel
        from lineside_hub.alarms.storage import Notice
        from lineside_hub.config import folder_config
    config = folder_config(_hub(options))
    channels = make_channels(config.alarms, config.link.site)
    if not channels:
        inform("no channel: hub.toml has neither [alarms.email] nor [[alarms.webhook]]")
    now_ns = time.time_ns()
    alarm = FleetAlarm(
        rule="test",
        device="",
        priority="low",
        state="active",
        value=0.0,
        detail="a test of the notices; nothing need be done",
        raised_at_ns=now_ns,
        changed_at_ns=now_ns,
    )
    failed = 0
    for channel in channels:
        error = try_channel(channel, Notice(id=0, channel=channel.name, transition="raised", at_ns=now_ns, alarm=alarm))
        failed += error is not None
        show(printable(f"{channel.name}: {error or 'taken'}"))
    return 1 if failed else 0
