"""``lineside agent person``."""

from __future__ import annotations

import argparse

from lineside.console import inform, print_json, show
from lineside.options import Actions, add_agent_config, add_json
from lineside.secret_input import read_new_secret


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    person = actions.add_parser(
        "person",
        help="add, list and remove the people of the operator screen",
        description="People sign in at the operator screen with a PIN. Without any, whoever stands at the device may "
        "operate it, and other machines can't reach it. Changes count at once, without a restart.",
    )
    what = person.add_subparsers(metavar="WHAT", required=True)
    added = what.add_parser("add", help="add a person, or give one another PIN and role")
    added.add_argument("name")
    added.add_argument(
        "--role",
        choices=("watch", "operate", "set_up"),
        default="operate",
        help="watch: see; operate: also mark, acknowledge and control the line; set_up: also see what people did, "
        "and set up cameras where the line allows it (default: %(default)s)",
    )
    add_agent_config(added)
    added.set_defaults(run=run_add)
    listed = what.add_parser("ls", help="list the people")
    add_agent_config(listed)
    add_json(listed)
    listed.set_defaults(run=run_list)
    removed = what.add_parser("remove", help="remove a person, who is signed out at once")
    removed.add_argument("name")
    add_agent_config(removed)
    removed.set_defaults(run=run_remove)


def run_add(options: argparse.Namespace) -> int:
    """Asks for the PIN twice, or reads it from standard input, and adds the person."""
    from lineside_agent.config import read_config
    from lineside_agent.screen.people import add_person

    folder = read_config(options.config).folder
    pin = read_new_secret("PIN", options.name).strip()
    folder.mkdir(parents=True, exist_ok=True)
    add_person(folder, options.name, options.role, pin)
    inform(f"{options.name} may {options.role.replace('_', ' ')}")
    return 0


def run_list(options: argparse.Namespace) -> int:
    """Prints names and roles; PINs are not kept."""
    from lineside_agent.config import read_config
    from lineside_agent.screen.people import read_people

    people = read_people(read_config(options.config).folder)
    if options.json:
        print_json({"people": [{"name": one.name, "role": one.role} for one in people]})
        return 0
    for one in people:
        show(f"{one.name:30} {one.role}")
    if not people:
        inform("nobody has a PIN: whoever stands at the device may operate it")
    return 0


def run_remove(options: argparse.Namespace) -> int:
    from lineside_agent.config import read_config
    from lineside_agent.screen.people import remove_person

    remove_person(read_config(options.config).folder, options.name)
    inform(f"{options.name} is removed")
    return 0
