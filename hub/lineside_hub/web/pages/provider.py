"""Sign-in by an identity provider, and the sessions of its people.

The provider sends the browser to a page that posts what came with it: so this sign-in is a change like every other,
with the checks of its origin and a row in the audit log.
"""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from lineside_hub.web.accounts import (
    SESSION_MAX_S,
    ProviderPerson,
    ProviderSession,
    begin_session,
    end_provider_sessions,
    list_provider_people,
)
from lineside_hub.web.identity_provider import PENDING_S, RETURN_PATH, IdentityProvider, decide_role
from lineside_hub.web.pages.sessions import SignInQuery, own_path
from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute
from lineside_runtime.errors import InputNotFoundError, RequestError

COOKIE = "lineside_dashboard_sign_in"
"""Holds what the browser brings back from the provider, encrypted."""


class ProviderAnswerQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider sends the browser back with; whatever else it adds is left out."""

    code: str = ""
    state: str = ""
    iss: str | None = None
    error: str = ""
    error_description: str = ""


class ProviderAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The part of a provider's answer that ends a sign-in."""

    code: str
    state: str
    iss: str | None = None


def begin(call: DashboardRequest) -> Response:
    """Sends the browser to the provider."""
    url, sealed = _provider(call).begin(call.origin, own_path(call.query.next))
    _set_cookie(call, sealed, PENDING_S)
    return call.redirect(url)


def show_answer(call: DashboardRequest) -> Response:
    """The page that a browser comes back to, which ends the sign-in."""
    provider, query = _provider(call), call.query
    if query.error or not query.code:
        said = ": ".join(filter(None, (query.error[:100], query.error_description[:200])))
        raise RequestError(
            f"{provider.label} did not sign you in: {said or 'no code'}", status=403, action="Try again."
        )
    return call.page("provider-answer.html", label=provider.label, answer=query)


def finish(call: DashboardRequest) -> None:
    """Begins a session of the person that the provider names."""
    provider = _provider(call)
    call.note(provider.issuer, who="")
    key = f"provider {call.address}"
    call.dashboard.throttle.check(key)
    _set_cookie(call, "", 0)
    identity, pending = provider.finish(
        call.cookies.get(COOKIE, ""), code=call.body.code, state=call.body.state, issuer=call.body.iss
    )
    vouched = {"issuer": provider.issuer, "subject": identity.subject, "groups": identity.groups}
    call.note(identity.name, who=identity.name, after=vouched)
    role = decide_role(provider.config, identity)
    call.note(identity.name, who=identity.name, after={**vouched, "role": role})
    call.dashboard.throttle.succeed(key)
    vouching = ProviderSession(issuer=provider.issuer, role=role, id_token=identity.id_token)
    token = begin_session(call.database, identity.name, provider=vouching)
    call.set_session(token, age_s=int(SESSION_MAX_S))
    call.after = pending.next


def list_people(call: DashboardRequest) -> list[ProviderPerson]:
    """People who are signed in by the identity provider."""
    return list_provider_people(call.database)


def sign_out(call: DashboardRequest) -> None:
    """End all sessions of a person who is signed in by the identity provider."""
    name = call.path["name"]
    call.note(name)
    with call.database.transaction():
        end_provider_sessions(call.database, name)


def _provider(call: DashboardRequest) -> IdentityProvider:
    if call.dashboard.provider is None:
        raise InputNotFoundError("there is no identity provider", action="Sign in with a local account.")
    return call.dashboard.provider


def _set_cookie(call: DashboardRequest, sealed: str, age_s: int) -> None:
    call.set_cookie(COOKIE, sealed, age_s=age_s, path="/sign-in/provider", same_site="Strict")


ROUTES = (
    DashboardRoute("GET", "/sign-in/provider", None, begin, query=SignInQuery),
    DashboardRoute("GET", RETURN_PATH, None, show_answer, query=ProviderAnswerQuery),
    DashboardRoute("POST", "/sign-in/provider", None, finish, action="sign in", body=ProviderAnswer),
    DashboardRoute("GET", f"{API}/provider-sessions", "administer", list_people),
    DashboardRoute("DELETE", f"{API}/provider-sessions/{{name:path}}", "administer", sign_out, action="end sessions"),
)
