"""Sign-in at the dashboard by a real identity provider, Canaille: a journey in Chromium, and forged answers."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from playwright.sync_api import Browser, Page, expect

from lineside_hub.config import HubConfig, OidcConfig, WebConfig, load_config
from lineside_hub.results.database import Database
from lineside_hub.web import accounts, audit
from lineside_hub.web.identity_provider import IdentityProvider, ProviderIdentity, decide_role
from lineside_hub.web.pages.provider import COOKIE
from lineside_hub.web.routing import COOKIE as SESSION_COOKIE
from lineside_runtime.errors import ConfigError, RequestError
from tests.peers import identity_provider as peer
from tests.peers.identity_provider import IdentityProviderPeer, Person
from tests.worlds.dashboard import PASSWORD, DashboardClient, DashboardWorld, barriers
from tests.worlds.hub import make_database, make_repository

pytestmark = pytest.mark.peer

PEOPLE = (
    Person("frida", "frida@plant.example", ("shift-leaders", "canteen")),
    Person("gustav", "gustav@plant.example", ("canteen",)),
)

ROLES: dict[str, Any] = {"shift-leaders": "operate", "it": "administer"}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProviderPeer]:
    started = IdentityProviderPeer(tmp_path_factory.mktemp("canaille"), PEOPLE)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def config(provider: IdentityProviderPeer, tmp_path_factory: pytest.TempPathFactory) -> OidcConfig:
    secret = tmp_path_factory.mktemp("secret") / "client-secret"
    secret.write_text(f"{peer.SECRET}\n")
    return OidcConfig(
        issuer=provider.issuer, client_id=peer.CLIENT, client_secret_file=str(secret), roles=ROLES, label="Plant login"
    )


@pytest.fixture(scope="module")
def world(
    provider: IdentityProviderPeer, config: OidcConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DashboardWorld]:
    folder = tmp_path_factory.mktemp("dashboard") / "hub"
    make_repository(folder, ["line-a"])
    make_database(folder)
    made = DashboardWorld(folder, oidc=config)
    provider.start(made.url)
    yield made
    made.close()


@pytest.fixture
def client(world: DashboardWorld, config: OidcConfig) -> Iterator[DashboardClient]:
    """A client of a dashboard of its own: the pauses after its failed sign-ins hold up no other test."""
    with contextlib.closing(DashboardWorld(world.folder, oidc=config)) as own:
        yield own.client()


def sign_in(page: Page, name: str) -> None:
    """Goes from the sign-in page to the provider, and through its pages."""
    page.click("text=Sign in with Plant login")
    page.fill("[name=login]", name)
    page.keyboard.press("Enter")
    page.fill("[name=password]", peer.PASSWORD)
    page.keyboard.press("Enter")


def rows(world: DashboardWorld) -> list[audit.AuditEntry]:
    with Database.open(world.folder) as database:
        return audit.list_entries(database)


def check_page(page: Page) -> None:
    """No barrier, light and dark, and it fits a phone."""
    for is_dark, width in ((False, 1440), (True, 390)):
        page.emulate_media(color_scheme="dark" if is_dark else "light")
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert barriers(page) == []


def test_a_person_of_the_provider_signs_in_works_and_signs_out_there_too(
    world: DashboardWorld, provider: IdentityProviderPeer, browser: Browser
) -> None:
    shown = f"frida ({provider.issuer.removeprefix('http://')})"
    with world.open_page(browser, None, "/rollouts", other=provider.issuer) as page:
        check_page(page)
        sign_in(page, "frida")
        expect(page.locator("h1")).to_have_text("Rollouts")
        expect(page.locator(".who")).to_contain_text(shown)
        cookies = {one["name"]: one for one in page.context.cookies(world.url)}
        assert cookies[SESSION_COOKIE]["httpOnly"] and COOKIE not in cookies
        assert page.locator("nav >> text=Accounts").count() == 0  # may operate, not administer
        page.click(f"text={shown}")
        expect(page.locator("dl")).to_contain_text(provider.issuer)
        assert page.locator("[name=old]").count() == 0
        check_page(page)
        [entry] = [one for one in rows(world) if one.who == shown]
        assert (entry.action, entry.error) == ("sign in", "")
        assert json.loads(entry.after) == {
            "issuer": provider.issuer,
            "subject": "frida",
            "groups": ["canteen", "shift-leaders"],
            "role": "operate",
        }
        page.click("text=Sign out")
        expect(page.locator("h1")).to_have_text("Sign in")
        sign_out = [one for one in rows(world) if one.action == "sign out"]
        assert [one.who for one in sign_out] == [shown]
        page.click("text=Sign in with Plant login")
        expect(page.locator("[name=login]")).to_be_visible()  # the provider asks again: its own session has ended too


def test_who_has_no_role_is_refused_and_an_administrator_ends_sessions(
    world: DashboardWorld, provider: IdentityProviderPeer, browser: Browser
) -> None:
    with world.open_page(browser, None, "/sign-in", other=provider.issuer) as page:
        sign_in(page, "gustav")
        expect(page.locator("#message")).to_contain_text("may not sign in: no role in the dashboard")
        check_page(page)
        page.click("text=Back to the sign-in")
        expect(page.locator("h1")).to_have_text("Sign in")
    assert "may not sign in" in rows(world)[0].error and rows(world)[0].who.startswith("gustav (")
    with world.open_page(browser, None, "/sign-in", other=provider.issuer) as page:
        sign_in(page, "frida")
        expect(page.locator("h1")).to_have_text("Devices")
        with world.open_page(browser, "administer", "/accounts") as administrator:
            check_page(administrator)
            administrator.on("dialog", lambda dialog: dialog.accept())
            administrator.click("tr:has-text('frida') button")
            expect(administrator.locator("tr:has-text('frida')")).to_have_count(0)
        page.reload()
        expect(page.locator("h1")).to_have_text("Sign in")


def test_answers_that_belong_to_another_sign_in_are_refused(client: DashboardClient) -> None:
    assert client.send("GET", "/sign-in/provider?next=//evil.example/")[0] == 303
    cookie = client.answer_headers["set-cookie"].partition(";")[0]
    assert "SameSite=Strict" in client.answer_headers["set-cookie"] and "nonce=" in client.answer_headers["location"]
    assert "code_challenge_method=S256" in client.answer_headers["location"]
    state = client.answer_headers["location"].partition("state=")[2].partition("&")[0]
    for sent, given, said in (
        ({"code": "x", "state": state}, "", b"began no sign-in"),
        ({"code": "x", "state": state}, f"{COOKIE}=forged", b"began no sign-in"),
        ({"code": "x", "state": "another"}, cookie, b"belongs to another sign-in"),
        ({"code": "x", "state": state, "iss": "https://evil.example"}, cookie, b"another identity provider"),
        ({"code": "x", "state": state}, cookie, b"invalid_grant"),
    ):
        status, answer = client.send("POST", "/sign-in/provider", sent, Cookie=given)
        assert (status, said in answer) == (403, True), answer
    status, answer = client.send("POST", "/sign-in/provider", {"code": "x", "state": state}, Cookie=cookie)
    assert status == 429  # tries wait, as those of passwords do
    assert client.send("POST", "/sign-in/provider", {}, Origin="https://evil.example")[0] == 403
    status, page = client.send("GET", "/sign-in/provider/answer?error=access_denied&error_description=%3Cb%3Eno")
    assert (status, b"access_denied: &lt;b&gt;no" in page) == (403, True)


def test_only_a_token_of_the_provider_for_this_client_and_sign_in_is_taken(
    world: DashboardWorld, provider: IdentityProviderPeer, config: OidcConfig
) -> None:
    checked = IdentityProvider(config)
    own = serialization.load_pem_private_key(provider.setup.active[0].encode(), None)
    assert isinstance(own, rsa.RSAPrivateKey)
    signing = {one["kid"]: one for one in _keys(provider)}
    numbers = own.public_key().public_numbers()
    modulus = base64.urlsafe_b64encode(numbers.n.to_bytes(256, "big")).rstrip(b"=").decode()
    [kid] = [kid for kid, one in signing.items() if one.get("n") == modulus]
    now_s = int(time.time())
    good = {"iss": provider.issuer, "aud": peer.CLIENT, "sub": "frida", "iat": now_s, "exp": now_s + 60, "nonce": "n"}

    def is_taken(change: dict[str, Any], *, key: Any = own, algorithm: str = "RS256", kid: str = kid) -> bool:
        claims = {name: value for name, value in {**good, **change}.items() if value is not None}
        try:
            checked.check_token(jwt.encode(claims, key, algorithm, {"kid": kid}), "n")
        except RequestError as error:
            assert error.status == 403
            return False
        return True

    assert is_taken({}) and is_taken({"aud": [peer.CLIENT, "other"], "azp": peer.CLIENT})
    for wrong in (
        {"iss": "https://evil.example"},
        {"aud": "other"},
        {"aud": [peer.CLIENT, "other"]},
        {"azp": "other"},
        {"exp": now_s - 120},
        {"exp": None},
        {"iat": now_s + 600},
        {"nbf": now_s + 600},
        {"nonce": "another"},
        {"nonce": None},
        {"sub": None},
    ):
        assert not is_taken(wrong), wrong
    assert not is_taken({}, key=rsa.generate_private_key(65537, 2048))
    assert not is_taken({}, kid="unknown")
    assert not is_taken({}, key=None, algorithm="none")
    public = own.public_key().public_numbers().n.to_bytes(256, "big")  # as if the public key were a shared secret
    assert not is_taken({}, key=public, algorithm="HS256")


def test_new_keys_of_the_provider_are_found_and_without_it_local_accounts_sign_in(
    world: DashboardWorld, provider: IdentityProviderPeer, browser: Browser
) -> None:
    """The last test that needs the provider, which costs seconds to start: it stays stopped."""
    provider.stop()
    provider.rotate()
    provider.start(world.url)
    with world.open_page(browser, None, "/sign-in", other=provider.issuer) as page:
        sign_in(page, "frida")
        expect(page.locator("h1")).to_have_text("Devices")
    provider.stop()
    config = world.web.oidc
    assert config is not None
    with pytest.raises(RequestError, match="does not answer") as raised:
        IdentityProvider(config).begin(world.url, "/")
    assert raised.value.status == 502
    fresh = DashboardWorld(world.folder, oidc=config)
    try:
        with fresh.open_page(browser, None, "/sign-in") as page:
            page.click("text=Sign in with Plant login")
            expect(page.locator("h1")).to_contain_text("The identity provider Plant login does not answer")
            check_page(page)
            page.click("text=To the sign-in")
            page.fill("[name=name]", "Wanda")
            page.fill("[name=password]", PASSWORD)
            page.keyboard.press("Enter")
            expect(page.locator("h1")).to_have_text("Devices")
    finally:
        fresh.close()


def test_sessions_of_another_provider_and_of_none_have_ended(
    world: DashboardWorld, provider: IdentityProviderPeer
) -> None:
    session = accounts.ProviderSession(issuer=provider.issuer, role="operate", id_token="")
    with Database.open(world.folder) as database:
        token = accounts.begin_session(database, "frida (plant)", provider=session)
        found = accounts.find_principal(database, token, is_token=False, acts=True, issuer=provider.issuer)
        assert (found.name, found.role) == ("frida (plant)", "operate")
        for issuer in ("", "https://other.example"):
            assert accounts.find_principal(database, token, is_token=False, acts=True, issuer=issuer).role is None
        with pytest.raises(ConfigError, match="identity provider"), database.transaction():
            accounts.set_account(database, "frida (plant)", "administer", PASSWORD)


def identity(*groups: str, **claims: Any) -> ProviderIdentity:
    return ProviderIdentity(name="frida", subject="frida", groups=groups, claims=claims, id_token="")


def test_the_highest_role_of_the_groups_counts_within_domain_and_required_group() -> None:
    config = OidcConfig(issuer="https://id.plant.example", client_id="x", roles={**ROLES, "all": "watch"})
    assert decide_role(config, identity("all", "it", "shift-leaders")) == "administer"
    assert decide_role(config, identity("all")) == "watch"
    strict = OidcConfig(
        issuer="https://id.plant.example",
        client_id="x",
        roles={"all": "watch"},
        email_domains=("plant.example",),
        required_group="staff",
    )
    good = {"email": "Frida@Plant.Example", "email_verified": True}
    assert decide_role(strict, identity("all", "staff", **good)) == "watch"
    for groups, claims in (
        (("all",), good),
        (("staff",), good),
        (("all", "staff"), {**good, "email_verified": "true"}),
        (("all", "staff"), {**good, "email": "frida@plant.example.evil.example"}),
        (("all", "staff"), {"email": "frida@plant.example"}),
    ):
        with pytest.raises(RequestError, match="may not sign in"):
            decide_role(strict, identity(*groups, **claims))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('issuer = "http://id.plant.example"', "loopback"),
        ('issuer = "https://user@id.plant.example"', "https"),
        ('issuer = "https://id.plant.example"\nurl = "https://hub.plant.example/path"', "without a path"),
        ('issuer = "https://id.plant.example"\nscopes = ["email"]', "openid"),
        ('issuer = "https://id.plant.example"\nemail_domains = ["a@plant.example"]', "domains"),
        ('issuer = "https://id.plant.example"\nclient_secret_file = "missing"', "missing"),
        ('issuer = "https://id.plant.example"\nca = "missing"', "missing"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "hub.toml"
    text = f'folder = "."\n[link]\nurl = "mqtt://127.0.0.1"\nsite = "x"\n[web.oidc]\nclient_id = "x"\n{line}\n'
    file.write_text(f'{text}[web.oidc.roles]\nstaff = "watch"\n')
    with pytest.raises(ConfigError, match=said):
        loaded: HubConfig = load_config(file)
        web: WebConfig | None = loaded.web
        assert web is not None and web.oidc is not None
        IdentityProvider(web.oidc)


def _keys(provider: IdentityProviderPeer) -> list[dict[str, Any]]:
    with urlopen(f"{provider.issuer}/.well-known/openid-configuration", timeout=60) as answer:
        url = json.load(answer)["jwks_uri"]
    with urlopen(url, timeout=60) as answer:
        return list(json.load(answer)["keys"])
