"""``lineside agent``: run, doctor, check and enroll; the other actions have a module each."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.commands.agent import (
    drift,
    interactions,
    mark,
    offline_import,
    person,
    recipe,
    results,
    service,
    status,
    trigger,
)
from lineside.console import inform, print_json, show, show_findings, show_link
from lineside.options import add_agent_config, add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    daemon = actions.add_parser(
        "run", help="run the daemon in the foreground", description="Runs the daemon in the foreground until SIGTERM."
    )
    add_agent_config(daemon)
    daemon.set_defaults(run=run_agent, usual_log_level="info")
    for action in (status, trigger, recipe, drift, mark, person, results, interactions, offline_import):
        action.add(actions)
    doctor = actions.add_parser(
        "doctor",
        help="list problems of the agent and its board, and how to mend them",
        description="Examines configuration, status, link, certificate, clock, disk, slots, service and board, and "
        "prints each problem with what to do about it. Changes nothing. Ends with 1 if a problem is an error.",
    )
    add_agent_config(doctor)
    doctor.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="default: this system")
    add_json(doctor)
    doctor.set_defaults(run=run_doctor)
    check = actions.add_parser(
        "check",
        help="test whether this version of the agent could take over here, without changes",
        description="Reads configuration and state, runs the installed bundle on its golden input, and compares each "
        "recipe with its bundle. An update runs this in the new slot before it takes over. The exit status is 3 if the "
        "agent can work and a recipe can't run.",
    )
    add_agent_config(check)
    add_json(check)
    check.set_defaults(run=run_check)
    enroll = actions.add_parser(
        "enroll",
        help="get this device's certificate with a token from the hub",
        description="Makes this device's key, and gets its certificate with a token from `lineside hub token`.",
    )
    enroll.add_argument("--token-file", type=Path, required=True, metavar="FILE", help="from `lineside hub token`")
    enroll.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for key and certificates")
    enroll.add_argument("--hub", metavar="URL", help="of the broker (default: the token's)")
    enroll.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="wait so long (default: %(default)s s)"
    )
    add_json(enroll)
    enroll.set_defaults(run=run_enroll)
    service.add(actions)


def run_agent(options: argparse.Namespace) -> int:
    from lineside_agent.daemon import run

    return run(options.config)


def run_enroll(options: argparse.Namespace) -> int:
    """Gets the first certificate, and prints the lines of agent.toml for it."""
    from lineside_agent.hub_client.identity import enroll

    link = enroll(options.token_file, options.out, url=options.hub, timeout_s=options.timeout, progress=inform)
    if options.json:
        print_json({"link": link, "root": options.out / "root.json"})
        return 0
    inform(f"enrolled; {options.token_file} is used up and can be deleted. In agent.toml:")
    names = ("url", "site", "ca", "certificate", "key")
    show_link({name: getattr(link, name) for name in names}, root=options.out / "root.json")
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    from lineside_agent.health.doctor import collect, examine

    findings = examine(collect(options.config, options.root))
    if options.json:
        print_json({"findings": findings})
    else:
        show_findings(findings)
    return 1 if any(finding.level == "error" for finding in findings) else 0


def run_check(options: argparse.Namespace) -> int:
    """Checks whether this agent could take over."""
    from lineside_agent.deployment.preflight import WITH_PROBLEMS, check

    found = check(options.config)
    if options.json:
        print_json(found)
    else:
        show(f"agent {found.agent_version} can run {found.bundle or 'no bundle yet'} as {found.device}")
    for problem in found.problems:
        inform(f"! {problem}")
    return WITH_PROBLEMS if found.problems else 0
