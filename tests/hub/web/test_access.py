"""Who may do what at the dashboard, over HTTP as a browser or an attacker sends it."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from lineside_hub.results.database import Database
from lineside_hub.web import accounts
from lineside_hub.web.accounts import ROLES, LoginThrottle
from lineside_hub.web.pages import ROUTES
from lineside_hub.web.routing import COOKIE
from lineside_hub.web.server import CONNECTIONS_MAX
from lineside_runtime.errors import ConfigError, RequestError
from lineside_runtime.server.page_server import PageAddress
from tests.worlds.dashboard import PASSWORD, DashboardClient, DashboardWorld
from tests.worlds.hub import make_database, make_repository

ALLOWED = {
    # the least role, None for everybody who reaches the dashboard; method; paths
    (method, path): role
    for role, method, paths in (
        (None, "GET", "/sign-in /sign-in/provider /sign-in/provider/answer"),
        (None, "POST", "/sign-in /sign-in/provider"),
        (
            "watch",
            "GET",
            "/ /account /alarms /api /api/v1/alarms /api/v1/alarms/closed /api/v1/bundles "
            "/api/v1/bundles/comparison /api/v1/devices /api/v1/devices/{device} "
            "/api/v1/devices/{device}/timeline /api/v1/openapi.json /api/v1/relabel/queue "
            "/api/v1/relabel/report /api/v1/results /api/v1/results/{device}/{epoch}/{seq} /api/v1/rollouts "
            "/api/v1/rollouts/{rollout} /api/v1/statistics/comparison /api/v1/statistics/control-chart "
            "/api/v1/statistics/pareto /api/v1/statistics/reviews /api/v1/statistics/totals "
            "/api/v1/statistics/trend /devices/{device} /events /frames/{sha256} /frames/{sha256}/thumbnail /metrics "
            "/quality /quality/comparison /relabel /relabel/next /relabel/{device}/{epoch}/{seq} /results "
            "/results/export /results/{device}/{epoch}/{seq} /rollouts /rollouts/{rollout}",
        ),
        ("operate", "GET", "/rollouts/new"),
        (
            "operate",
            "POST",
            "/api/v1/alarms/{number}/acknowledgement /api/v1/devices/{device}/log "
            "/api/v1/devices/{device}/release /api/v1/frames/{sha256}/boxes "
            "/api/v1/results/{device}/{epoch}/{seq}/mark /api/v1/rollouts /api/v1/rollouts/{rollout}/order",
        ),
        (
            "administer",
            "GET",
            "/accounts /api/v1/accounts /api/v1/audit /api/v1/audit/verification /api/v1/provider-sessions /audit",
        ),
        ("administer", "POST", "/api/v1/accounts"),
        ("administer", "DELETE", "/api/v1/accounts/{name:path} /api/v1/provider-sessions/{name:path}"),
        ("watch", "POST", "/account/password /sign-out"),
    )
    for path in paths.split()
}


def test_each_role_gets_what_the_table_says_and_nobody_a_credential(dashboard: DashboardWorld) -> None:
    assert {(route.method, route.path): route.role for route in ROUTES} == ALLOWED
    with Database.open(dashboard.folder) as database:
        secrets = [row["password"].encode() for row in database.query("SELECT password FROM accounts")]
        secrets += [row["digest"].encode() for row in database.query("SELECT digest FROM sessions")]
    *_, last = ALLOWED
    assert last == ("POST", "/sign-out")  # each client's session ends here
    for who in (None, *ROLES):
        client = dashboard.client(who)
        for (method, path), least in ALLOWED.items():
            status, body = client.send(method, re.sub(r"\{\w+(:\w+)?\}", "7", path), None if method == "GET" else {})
            allowed = least is None or (who is not None and ROLES.index(who) >= ROLES.index(least))
            refused = status in (401, 403) or client.answer_headers.get("location", "").startswith("/sign-in")
            assert refused != allowed, (who, method, path, status, body[:300])
            assert not [one for one in secrets if one in body]
            assert "default-src 'none'" in client.answer_headers["content-security-policy"]


def test_wrong_hosts_other_sites_and_malformed_requests_are_refused(dashboard: DashboardWorld) -> None:
    client = dashboard.client("administer")
    account = {"name": "Eve", "role": "administer", "password": PASSWORD}
    assert client.send("GET", "/", Host="evil.example")[0] == 421
    assert client.send("GET", "/static/dashboard.css", Host="evil.example")[0] == 421
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert client.send("POST", "/api/v1/accounts", account, **headers)[0] == 403
    del client.headers["Origin"]
    assert client.send("POST", "/api/v1/accounts", account)[0] == 403
    client = dashboard.client("administer")
    assert client.send("POST", "/api/v1/accounts", account, **{"Content-Type": "text/plain"})[0] == 415
    assert client.send("POST", "/api/v1/accounts", {**account, "name": "E" * 100_000})[0] == 413
    assert client.send("POST", "/api/v1/accounts", b"{")[0] == 400
    assert client.send("POST", "/api/v1/accounts", {**account, "role": "root"})[0] == 400
    assert client.send("POST", "/api/v1/accounts", {**account, "password": "short"})[0] == 409
    assert client.send("GET", "/audit?before=one")[0] == 400
    assert client.send("GET", f"/audit?before={2**63}")[0] == client.send("GET", f"/alarms?before={2**63}")[0] == 400
    assert (
        client.send("GET", "/rollouts/new?group=gone")[0] == client.send("GET", "/rollouts/new?bundle=no@1")[0] == 404
    )
    assert client.send("GET", "/audit?%zz=1")[0] == 400
    assert client.send("GET", "/static/../server.py")[0] == 404
    assert client.send("PUT", "/api/v1/accounts", account)[0] == 405
    assert "Eve" not in [one["name"] for one in client.json("GET", "/api/v1/accounts")]
    stolen = DashboardClient(dashboard.url, "stolen")
    assert stolen.send("POST", "/api/v1/accounts", account)[0] == 401


def test_who_signs_in_gets_a_cookie_that_ends_with_the_session(dashboard: DashboardWorld) -> None:
    client = dashboard.client()
    assert client.send("POST", "/sign-in", {"name": "Otto", "password": "wrong words of chalk"})[0] == 401
    assert client.send("POST", "/sign-in", {"name": "Nobody", "password": PASSWORD})[0] == 401
    headers = {"HX-Request": "true"}
    sent = {"name": "Otto", "password": PASSWORD, "next": "//evil.example/"}
    assert client.send("POST", "/sign-in", sent, **headers)[0] == 204
    assert client.answer_headers["hx-redirect"] == "/"
    cookie = client.answer_headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    signed_in = DashboardClient(dashboard.url, cookie.partition(";")[0].removeprefix(f"{COOKIE}="))
    assert signed_in.send("GET", "/")[0] == 200
    assert signed_in.send("POST", "/sign-out")[0] == 200
    assert signed_in.send("GET", "/")[0] == 303


def test_a_session_ends_when_it_idles_and_a_token_when_its_account_goes(
    dashboard: DashboardWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    administrator = dashboard.client("administer")
    administrator.json("POST", "/api/v1/accounts", {"name": "Robot", "role": "watch", "password": PASSWORD})
    with Database.open(dashboard.folder) as database:
        token = accounts.begin_session(database, "Robot", label="nightly")
        browser = accounts.begin_session(database, "Robot")
        monkeypatch.setattr(accounts, "IDLE_S", -1.0)
        assert accounts.find_principal(database, browser, is_token=False, acts=True).role is None
        assert accounts.find_principal(database, browser, is_token=True, acts=True).role is None
    robot = DashboardClient(dashboard.url, token=token)
    assert robot.json("GET", "/api/v1/devices") == []
    assert DashboardClient(dashboard.url, token).send("GET", "/api/v1/devices")[0] == 401
    monkeypatch.undo()
    administrator.json("DELETE", "/api/v1/accounts/Robot")
    assert robot.send("GET", "/api/v1/devices")[0] == 401


def test_the_last_administrator_cannot_be_removed(dashboard: DashboardWorld) -> None:
    client = dashboard.client("administer")
    assert client.send("DELETE", "/api/v1/accounts/Ada")[0] == 409
    assert client.send("POST", "/api/v1/accounts", {"name": "Ada", "role": "watch"})[0] == 409
    assert client.send("GET", "/accounts")[0] == 200


def test_an_account_with_a_slash_in_its_name_is_removed_as_it_was_added(dashboard: DashboardWorld) -> None:
    client = dashboard.client("administer")
    client.json("POST", "/api/v1/accounts", {"name": "line 3/Otto", "role": "watch", "password": PASSWORD})
    assert client.send("DELETE", "/api/v1/accounts/line%203%2FOtto")[0] == 200
    assert "line 3/Otto" not in {one["name"] for one in client.json("GET", "/api/v1/accounts")}


def test_wrong_passwords_are_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("lineside_hub.web.accounts.time.monotonic", lambda: now[0])
    throttle = LoginThrottle()

    def tries(*keys: str) -> bool:
        try:
            throttle.check(*keys)
        except RequestError as error:
            assert error.status == 429
            return False
        return True

    assert [tries("name Otto") for _ in range(6)] == [True] * 5 + [False]
    assert tries("name Wanda")
    now[0] += accounts.PAUSE_FIRST_S
    assert tries("name Otto") and not tries("name Otto", "address b")
    now[0] += 2 * accounts.PAUSE_FIRST_S
    assert tries("name Otto")
    throttle.succeed("name Otto")
    assert [tries("name Otto") for _ in range(5)] == [True] * 5


def test_other_machines_need_tls(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.write_text("")
    gone = tmp_path / "no.pem"

    def check(certificate: Path | None, key: Path | None, *, is_local: bool) -> None:
        where = PageAddress(setting="$.web", address="0.0.0.0", port=0, tls_certificate=certificate, tls_key=key)
        where.check_tls(is_local=is_local)

    check(None, None, is_local=True)
    check(pem, pem, is_local=False)
    for certificate, key, is_local in ((None, None, False), (None, pem, True), (pem, gone, True)):
        with pytest.raises(ConfigError):
            check(certificate, key, is_local=is_local)


def test_over_tls_the_cookie_is_secure(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    make_repository(tmp_path / "hub", ["line-a"])
    make_database(tmp_path / "hub")
    world = DashboardWorld(tmp_path / "hub", tls_key=str(key), tls_certificate=str(certificate))
    try:
        assert world.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        body = msgspec.json.encode({"name": "Otto", "password": PASSWORD})
        headers = {"Content-Type": "application/json", "Origin": world.url}
        request = urllib.request.Request(f"{world.url}/sign-in", body, headers)
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            assert "; Secure" in answer.headers["set-cookie"]
    finally:
        world.close()


@pytest.mark.parametrize("password", [None, "short", "a" * 20, "Oskar and more"])
def test_a_password_that_is_easily_guessed_is_refused(dashboard: DashboardWorld, password: str | None) -> None:
    with Database.open(dashboard.folder) as database, pytest.raises(ConfigError), database.transaction():
        accounts.set_account(database, "Oskar", "operate", password)


def test_one_address_that_takes_all_connections_it_can_keeps_nobody_else_out(dashboard: DashboardWorld) -> None:
    port = int(dashboard.url.rpartition(":")[2])
    with ExitStack() as held:
        for _ in range(2 * CONNECTIONS_MAX):
            hostile = held.enter_context(socket.create_connection(("127.0.0.1", port), 10, ("127.0.0.2", 0)))
            hostile.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        assert {dashboard.client("watch").send("GET", "/alarms")[0] for _ in range(5)} == {200}


def test_an_unknown_field_of_a_query_is_refused_with_the_known_ones(dashboard: DashboardWorld) -> None:
    status, answer = dashboard.client("watch").send("GET", "/api/v1/alarms/closed?limit=3")
    assert status == 400
    assert b'"expected":"before' in answer


def test_a_hub_without_events_says_so(dashboard: DashboardWorld) -> None:
    assert b"None yet." in dashboard.client("watch").send("GET", "/events")[1]
