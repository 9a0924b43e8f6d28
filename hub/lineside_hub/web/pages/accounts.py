"""Accounts: who may do what."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from lineside_hub.web.accounts import (
    ROLES,
    Account,
    Role,
    find_account,
    list_accounts,
    list_provider_people,
    remove_account,
    set_account,
)
from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute
from lineside_runtime.errors import InputNotFoundError


class AccountChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new account, or another role or password of one.

    Attributes:
        password: Left out, an existing account keeps its own.
    """

    name: str
    role: Role
    password: str | None = None


def show(call: DashboardRequest) -> Response:
    """The page of all accounts."""
    people = list_provider_people(call.database)
    return call.page("accounts.html", accounts=list_accounts(call.database), roles=ROLES, people=people)


def list_all(call: DashboardRequest) -> list[Account]:
    """All accounts, without passwords."""
    return list_accounts(call.database)


def change(call: DashboardRequest) -> Account:
    """Add an account, or change role or password of one."""
    given: AccountChange = call.body
    before = _known(call, given.name)
    call.note(given.name, before=_fields(before), after={"role": given.role, "password": given.password is not None})
    with call.database.transaction():
        set_account(call.database, given.name, given.role, given.password)
    return find_account(call.database, given.name)


def remove(call: DashboardRequest) -> None:
    """Remove an account, which is signed out at once."""
    name = call.path["name"]
    call.note(name, before=_fields(_known(call, name)))
    with call.database.transaction():
        remove_account(call.database, name)


def _known(call: DashboardRequest, name: str) -> Account | None:
    try:
        return find_account(call.database, name)
    except InputNotFoundError:
        return None


def _fields(account: Account | None) -> dict[str, str] | None:
    return None if account is None else {"role": account.role}


ROUTES = (
    DashboardRoute("GET", "/accounts", "administer", show, menu="Accounts"),
    DashboardRoute("GET", f"{API}/accounts", "administer", list_all),
    DashboardRoute("POST", f"{API}/accounts", "administer", change, action="set account", body=AccountChange),
    DashboardRoute("DELETE", f"{API}/accounts/{{name:path}}", "administer", remove, action="remove account"),
)
