"""Sign-in, sign-out and one's own password."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from lineside_hub.web.accounts import (
    NAME_MAX,
    SESSION_MAX_S,
    begin_session,
    check_password,
    end_session,
    set_account,
)
from lineside_hub.web.routing import DashboardRequest, DashboardRoute
from lineside_runtime.errors import RequestError


class SignInQuery(msgspec.Struct, frozen=True):
    """Where to go after the sign-in."""

    next: str = "/"


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Name and password of an account."""

    name: str
    password: str
    next: str = "/"


class PasswordChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The old and the new password of the account that is signed in."""

    old: str
    new: str


def show_sign_in(call: DashboardRequest) -> Response:
    """The page with name and password."""
    return call.page("sign-in.html", next=own_path(call.query.next), provider=call.dashboard.provider)


def sign_in(call: DashboardRequest) -> None:
    """Begins a session."""
    name = "".join(letter for letter in call.body.name[:NAME_MAX] if letter.isprintable())
    call.note(name, who=name)
    keys = (f"name {name}", f"address {call.address}")
    call.dashboard.throttle.check(*keys)
    account = check_password(call.database, name, call.body.password)
    call.dashboard.throttle.succeed(*keys)
    token = begin_session(call.database, account.name)
    call.set_session(token, age_s=int(SESSION_MAX_S))
    call.after = own_path(call.body.next)


def sign_out(call: DashboardRequest) -> None:
    """Ends the session, at the identity provider too if that began it."""
    id_token, provider = end_session(call.database, call.token), call.dashboard.provider
    call.set_session("", age_s=0)
    call.after = (id_token and provider and provider.end(id_token, call.origin)) or "/sign-in"


def show_account(call: DashboardRequest) -> Response:
    """The page of the account that is signed in."""
    return call.page("account.html")


def change_password(call: DashboardRequest) -> None:
    """Changes one's own password, which signs the account out everywhere."""
    name = call.principal.name
    call.note(name)
    if call.principal.issuer:
        raise RequestError("the password is the identity provider's", status=409, action="Change it there.")
    keys = (f"name {name}", f"address {call.address}")
    call.dashboard.throttle.check(*keys)
    try:
        account = check_password(call.database, name, call.body.old)
    except RequestError as error:
        raise RequestError("the old password is wrong", status=403, action="Try again.") from error
    call.dashboard.throttle.succeed(*keys)
    with call.database.transaction():
        set_account(call.database, name, account.role, call.body.new)
    call.after = "/sign-in"


def own_path(path: str) -> str:
    """Returns a path of the dashboard; not another site's, which a link to the sign-in may name."""
    is_own = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_own else "/"


ROUTES = (
    DashboardRoute("GET", "/sign-in", None, show_sign_in, query=SignInQuery),
    DashboardRoute("POST", "/sign-in", None, sign_in, action="sign in", body=SignIn),
    DashboardRoute("POST", "/sign-out", "watch", sign_out, action="sign out"),
    DashboardRoute("GET", "/account", "watch", show_account),
    DashboardRoute(
        "POST", "/account/password", "watch", change_password, action="change password", body=PasswordChange
    ),
)
