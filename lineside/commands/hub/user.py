"""``lineside hub user`` and ``lineside hub audit``: accounts and audit log of the fleet dashboard."""

from __future__ import annotations

import argparse
from typing import Any

from lineside.console import inform, print_json, show, system_user
from lineside.extras import needs
from lineside.options import add_hub, add_json
from lineside.secret_input import read_new_secret
from lineside_runtime.errors import ConfigError
from lineside_runtime.wording import counted


def add_actions(actions: Any) -> None:
    """Adds ``user`` and ``audit`` to the actions of ``lineside hub``."""
    _add_user(actions)
    _add_audit(actions)


def _add_user(actions: Any) -> None:
    user = actions.add_parser(
        "user",
        help="add, list and remove the accounts of the fleet dashboard",
        description="Accounts of the fleet dashboard ([web] in hub.toml). The first one, with --role administer, can "
        "add the others in the browser. Changes count at once and stand in the audit log.",
    )
    what = user.add_subparsers(metavar="WHAT", required=True)
    added = what.add_parser("add", help="add an account, or give one another role and password")
    added.add_argument("name")
    added.add_argument(
        "--role",
        choices=("watch", "operate", "administer"),
        required=True,
        help="watch: see everything but accounts and audit log; operate: also rollouts, reviews and alarms; "
        "administer: everything",
    )
    add_hub(added)
    added.set_defaults(run=run_add)
    listed = what.add_parser("ls", help="list the accounts")
    add_hub(listed)
    add_json(listed)
    listed.set_defaults(run=run_list)
    removed = what.add_parser("remove", help="remove an account with its sessions and tokens")
    removed.add_argument("name")
    add_hub(removed)
    removed.set_defaults(run=run_remove)
    token = what.add_parser(
        "token",
        help="make an API token of an account, for a program",
        description="Prints a token for the REST API, which may do what the account may. It is shown once.",
    )
    token.add_argument("name")
    token.add_argument("--label", default="program", help="what it is for (default: %(default)s)")
    token.add_argument("--days", type=float, default=90.0, help="how long it lasts (default: %(default)g)")
    add_hub(token)
    token.set_defaults(run=run_token)


def _add_audit(actions: Any) -> None:
    audit = actions.add_parser(
        "audit",
        help="check the audit log of the fleet dashboard",
        description="The audit log says who changed what in the fleet dashboard; the dashboard shows it.",
    )
    what = audit.add_subparsers(metavar="WHAT", required=True)
    verify = what.add_parser(
        "verify",
        help="check that no row was changed or removed",
        description="Checks number and digest of each row, and prints the head: number and digest of the last row. The "
        "exit code is 1 if a row was changed or removed.",
    )
    verify.add_argument(
        "--head",
        default="",
        metavar="NUMBER:DIGEST",
        help="of an earlier run, kept elsewhere: that row must still be there, which shows a log that was written anew",
    )
    add_hub(verify)
    add_json(verify)
    verify.set_defaults(run=run_verify)


def run_add(options: argparse.Namespace) -> int:
    """Asks for the password twice, or reads it from standard input, and adds the account."""
    with needs("web"):
        from lineside_hub.results.database import Database
        from lineside_hub.web import accounts, audit
    password = read_new_secret("password", options.name)
    with Database.open(options.hub) as database, database.transaction() as connection:
        before = [one.role for one in accounts.list_accounts(database) if one.name == options.name]
        accounts.set_account(database, options.name, options.role, password)
        audit.add(
            connection,
            who=system_user(),
            action="set account",
            subject=options.name,
            before={"role": before[0]} if before else None,
            after={"role": options.role, "password": True},
        )
    inform(f"{options.name} may {options.role}")
    return 0


def run_list(options: argparse.Namespace) -> int:
    """Prints names and roles; passwords are not kept."""
    with needs("web"):
        from lineside_hub.results.database import Database
        from lineside_hub.web.accounts import list_accounts
    with Database.open(options.hub) as database:
        accounts = list_accounts(database)
    if options.json:
        print_json({"accounts": [{"name": one.name, "role": one.role} for one in accounts]})
        return 0
    for one in accounts:
        show(f"{one.name:30} {one.role}")
    if not accounts:
        inform(f"nobody can sign in: lineside hub user add NAME --role administer --hub {options.hub}")
    return 0


def run_remove(options: argparse.Namespace) -> int:
    with needs("web"):
        from lineside_hub.results.database import Database
        from lineside_hub.web import accounts, audit
    with Database.open(options.hub) as database, database.transaction() as connection:
        before = accounts.find_account(database, options.name)
        accounts.remove_account(database, options.name)
        audit.add(
            connection, who=system_user(), action="remove account", subject=options.name, before={"role": before.role}
        )
    inform(f"{options.name} is removed")
    return 0


def run_token(options: argparse.Namespace) -> int:
    with needs("web"):
        from lineside_hub.results.database import Database
        from lineside_hub.web import accounts, audit
    if not 0 < options.days <= accounts.TOKEN_DAYS_MAX or not options.label.strip():
        raise ConfigError(
            "--days, --label",
            expected=f"more than 0 and at most {accounts.TOKEN_DAYS_MAX:g} days, and a label",
            actual=f"{options.days:g} days, {options.label!r}",
            action="Correct them.",
        )
    with Database.open(options.hub) as database:
        account = accounts.find_account(database, options.name)
        with database.transaction() as connection:
            after = {"label": options.label, "days": options.days}
            audit.add(connection, who=system_user(), action="make token", subject=options.name, after=after)
        token = accounts.begin_session(
            database, account.name, label=options.label, lasts_s=options.days * accounts.DAY_S
        )
    show(token)
    inform(
        f"may {account.role} for {options.days:g} days: curl --header 'Authorization: Bearer TOKEN' …/api/v1/devices"
    )
    return 0


def run_verify(options: argparse.Namespace) -> int:
    with needs("web"):
        from lineside_hub.results.database import Database
        from lineside_hub.web.audit import verify
    with Database.open(options.hub) as database:
        report = verify(database, head=options.head)
    if options.json:
        print_json(report)
    else:
        for problem in report.problems:
            show(f"! {problem}")
        show(f"{counted(report.rows, 'row')}; head {report.head}")
    return 1 if report.problems else 0
