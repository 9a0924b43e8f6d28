"""Sign-in by an identity provider with OpenID Connect: authorization code flow with PKCE.

PyJWT checks ID tokens: of the libraries looked at it is the one that adds nothing but itself to ``cryptography``, and
its client for key sets follows a rotation. Authlib's client needs requests or httpx and a session middleware, for
what is one form here; joserfc has no client for key sets.

What a browser must bring back is in a cookie that only this process can read, so that sign-ins that nobody ends take
no memory. A provider that hangs holds at most `CALLS_MAX` worker threads; local accounts sign in by the others.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import threading
import time
import urllib.error
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import jwt
import msgspec
from cryptography.fernet import Fernet, InvalidToken

from lineside_hub.alarms.config import read_secret
from lineside_hub.config import OidcConfig, check_provider_url
from lineside_hub.http_client import send, trust
from lineside_hub.web.accounts import ROLES, Role
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import ConfigError, OverloadedError, RequestError

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Of signatures; none with a shared secret."""

TIMEOUT_S = 5.0

METADATA_S = 3600.0
"""How long a discovery document is used."""

FAILED_S = 5.0
"""How long a provider that did not answer is not asked again."""

CALLS_MAX = 2

PENDING_S = 600
"""A sign-in at the provider takes at most so long."""

LEEWAY_S = 60.0
"""Difference of the clocks."""

RETURN_PATH = "/sign-in/provider/answer"
"""Of the dashboard: where the provider sends the browser."""

_TEXT_MAX = 200


class ProviderMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of a discovery document."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of a token endpoint's answer."""

    id_token: str
    access_token: str = ""


class PendingSignIn(msgspec.Struct, frozen=True, kw_only=True):
    """What a browser brings back from the provider.

    Attributes:
        verifier: Of PKCE.
        redirect_url: Where the provider sends the browser.
        next: Page of the dashboard to go to then.
    """

    state: str
    nonce: str
    verifier: str
    redirect_url: str
    next: str


class ProviderIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who has signed in at the provider.

    Attributes:
        name: For people, with the provider's host, so that no local account has the same.
        subject: The provider's own name, which never changes.
    """

    name: str
    subject: str
    groups: tuple[str, ...]
    claims: dict[str, Any]
    id_token: str


class IdentityProvider:
    """Speaks to one provider; used by several worker threads.

    Raises:
        ConfigError: The client's secret or the certificates cannot be read.
    """

    def __init__(self, config: OidcConfig) -> None:
        self.config = config
        self._secret = ""
        if config.client_secret_file:
            self._secret = read_secret(config.client_secret_file, "web.oidc.client_secret_file")
        try:
            self._trust = trust(config.ca)
        except OSError as error:
            raise ConfigError(f"web.oidc.ca {config.ca}: {error}", expected="certificates in PEM") from error
        self.issuer = config.issuer
        self._host = urlsplit(config.issuer).netloc
        self.label = config.label or self._host
        self._sealed = Fernet(Fernet.generate_key())
        self._calls = threading.BoundedSemaphore(CALLS_MAX)
        self._lock = threading.Lock()
        self._known: tuple[ProviderMetadata, jwt.PyJWKClient] | None = None
        self._ask_again_s = 0.0
        self._failure = ""

    def begin(self, origin: str, next_path: str) -> tuple[str, str]:
        """Begins a sign-in.

        Args:
            origin: Address of the dashboard as the browser has it.
            next_path: Page of the dashboard to go to afterwards.

        Returns:
            Where the browser goes, and the content of a cookie for `finish`.

        Raises:
            RequestError: The provider does not answer, or with something else than a discovery document.
        """
        metadata, _ = self._discover()
        pending = PendingSignIn(
            state=secrets.token_urlsafe(24),
            nonce=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            redirect_url=f"{self.config.url.rstrip('/') or origin}{RETURN_PATH}",
            next=next_path,
        )
        challenge = hashlib.sha256(pending.verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": pending.redirect_url,
            "scope": " ".join(self.config.scopes),
            "state": pending.state,
            "nonce": pending.nonce,
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        sealed = self._sealed.encrypt(msgspec.json.encode(pending)).decode()
        return _with_query(metadata.authorization_endpoint, asked), sealed

    def finish(
        self, sealed: str, *, code: str, state: str, issuer: str | None = None
    ) -> tuple[ProviderIdentity, PendingSignIn]:
        """Ends a sign-in with what the provider sent the browser back with.

        Args:
            sealed: The cookie of `begin`.
            issuer: That the answer names, if any (RFC 9207).

        Raises:
            RequestError: It is another browser's or too old, or the provider's token cannot be trusted.
        """
        pending = self._open(sealed)
        if not secrets.compare_digest(pending.state.encode(), state.encode()):
            raise _refused("the answer of the identity provider belongs to another sign-in")
        if issuer is not None and issuer != self.issuer:
            raise _refused("another identity provider answered")
        metadata, _ = self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": pending.redirect_url,
            "code_verifier": pending.verifier,
            "client_id": self.config.client_id,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if self._secret and "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            pair = f"{quote(self.config.client_id, safe='')}:{quote(self._secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        elif self._secret:
            form["client_secret"] = self._secret
        tokens = _decode(self._ask(metadata.token_endpoint, urlencode(form).encode(), headers), TokenAnswer)
        claims = self.check_token(tokens.id_token, pending.nonce)
        return self._identity(metadata, tokens, claims), pending

    def check_token(self, token: str, nonce: str) -> dict[str, Any]:
        """Checks an ID token's signature, issuer, audience, times and nonce; returns its claims.

        Raises:
            RequestError: One of them is wrong, or the provider's keys cannot be read.
        """
        _, keys = self._discover()
        try:
            with self._calling():
                key = keys.get_signing_key_from_jwt(token)
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,  # without the algorithm that PyJWT guesses for a key that names none
                algorithms=ALGORITHMS,
                audience=self.config.client_id,
                issuer=self.issuer,
                leeway=LEEWAY_S,
                options={"require": ["iss", "sub", "aud", "exp", "iat"], "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWKClientConnectionError, OSError, ValueError) as error:
            raise self._unreachable(error) from error
        except jwt.PyJWTError as error:
            raise _refused(f"the ID token is refused: {str(error)[:_TEXT_MAX]}") from error
        if not secrets.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise _refused("the ID token is refused: it belongs to another sign-in (nonce)")
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if claims.get("azp", self.config.client_id) != self.config.client_id or (
            len(audiences) > 1 and "azp" not in claims
        ):
            raise _refused("the ID token is refused: it was issued to another client (azp)")
        return claims

    def end(self, id_token: str, origin: str) -> str:
        """Returns where the browser goes to sign out at the provider too; empty if the provider has no such page."""
        try:
            metadata, _ = self._discover()
        except (RequestError, OverloadedError):
            return ""
        if not metadata.end_session_endpoint:
            return ""
        asked = {
            "id_token_hint": id_token,
            "client_id": self.config.client_id,
            "post_logout_redirect_uri": f"{self.config.url.rstrip('/') or origin}/sign-in",
        }
        return _with_query(metadata.end_session_endpoint, asked)

    def _open(self, sealed: str) -> PendingSignIn:
        try:
            return decode_json(self._sealed.decrypt(sealed.encode(), ttl=PENDING_S), type=PendingSignIn)
        except InvalidToken as error:
            raise _refused("this browser began no sign-in, or too long ago") from error

    def _identity(self, metadata: ProviderMetadata, tokens: TokenAnswer, claims: dict[str, Any]) -> ProviderIdentity:
        wanted = [self.config.roles_claim, self.config.name_claim]
        wanted += ["email", "email_verified"] if self.config.email_domains else []
        if any(_claim(claims, name) is None for name in wanted) and metadata.userinfo_endpoint and tokens.access_token:
            headers = {"Authorization": f"Bearer {tokens.access_token}", "Accept": "application/json"}
            more = _decode(self._ask(metadata.userinfo_endpoint, None, headers), dict[str, Any])
            if more.get("sub") != claims["sub"]:
                raise _refused("the userinfo endpoint answered for another person")
            claims = {**more, **claims}
        name = _claim(claims, self.config.name_claim)
        shown = "".join(letter for letter in str(name or claims["sub"]) if letter.isprintable()).strip()[:64]
        return ProviderIdentity(
            name=f"{shown} ({self._host})",
            subject=str(claims["sub"]),
            groups=_texts(_claim(claims, self.config.roles_claim)),
            claims=claims,
            id_token=tokens.id_token,
        )

    def _discover(self) -> tuple[ProviderMetadata, jwt.PyJWKClient]:
        """Returns the discovery document, read anew after `METADATA_S`, and the provider's keys."""
        with self._lock:
            if time.monotonic() < self._ask_again_s:
                if self._known is None:
                    raise _down(self.label, self._failure)
                return self._known
        try:
            found = self._read_metadata()
        except RequestError as error:
            with self._lock:
                self._known, self._failure = None, error.message
                self._ask_again_s = time.monotonic() + FAILED_S
            raise
        # No pause between two reads of the keys: a token of a new key comes from the provider itself.
        keys = jwt.PyJWKClient(found.jwks_uri, timeout=TIMEOUT_S, ssl_context=self._trust, cooldown_duration=0)
        with self._lock:
            self._known, self._ask_again_s = (found, keys), time.monotonic() + METADATA_S
            return self._known

    def _read_metadata(self) -> ProviderMetadata:
        found: ProviderMetadata = _decode(
            self._ask(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"), ProviderMetadata
        )
        if found.issuer != self.issuer:
            raise RequestError(
                "the identity provider names another issuer",
                status=502,
                expected=self.issuer,
                actual=found.issuer[:_TEXT_MAX],
                action="Correct [web.oidc] issuer in hub.toml.",
            )
        try:
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                check_provider_url(getattr(found, name), name)
            for name in ("userinfo_endpoint", "end_session_endpoint"):
                if getattr(found, name):
                    check_provider_url(getattr(found, name), name)
        except ConfigError as error:
            raise RequestError(
                f"the identity provider cannot be used: {error.reason}", status=502, action=""
            ) from error
        return found

    def _ask(self, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
        try:
            with self._calling():
                return send(url, body, headers, ca=self.config.ca, timeout_s=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                said = _error_text(error.read(4096))
            if body is not None and error.code in (400, 401):
                raise _refused(f"the identity provider refused the sign-in: {said or error.code}") from error
            raise _down(self.label, f"status {error.code} {said}".strip()) from error
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> RequestError:
        return _down(self.label, str(error)[:_TEXT_MAX])

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        if not self._calls.acquire(blocking=False):
            raise OverloadedError("the identity provider is slow", action="Try again, or use a local account.")
        try:
            yield
        finally:
            self._calls.release()


def decide_role(config: OidcConfig, identity: ProviderIdentity) -> Role:
    """Returns the role of a person: the highest that the groups give.

    Raises:
        RequestError: The person may not sign in.
    """
    claims, action = identity.claims, "Ask somebody who may administer the dashboard, or use a local account."
    if config.email_domains:
        domain = str(claims.get("email", "")).rpartition("@")[2].lower()
        if claims.get("email_verified") is not True or domain not in {one.lower() for one in config.email_domains}:
            text = f"{identity.name} may not sign in: no verified e-mail address of an allowed domain"
            raise RequestError(text, status=403, action=action)
    roles = {config.roles[group] for group in identity.groups if group in config.roles}
    if not roles or (config.required_group and config.required_group not in identity.groups):
        raise RequestError(f"{identity.name} may not sign in: no role in the dashboard", status=403, action=action)
    return max(roles, key=ROLES.index)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Returns a claim; ``a.b`` is ``b`` within ``a``, unless a claim has just that name."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _with_query(url: str, fields: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(fields)}"


def _decode(data: bytes, kind: Any) -> Any:
    try:
        return decode_json(data, type=kind)
    except (msgspec.DecodeError, ValueError) as error:
        raise RequestError(f"the identity provider's answer is malformed: {error}", status=502, action="") from error


def _error_text(data: bytes) -> str:
    """Returns an OAuth error's code and description."""
    with contextlib.suppress(msgspec.DecodeError, ValueError):
        found = decode_json(data, type=dict[str, Any])
        parts = [str(found[name]) for name in ("error", "error_description") if found.get(name)]
        return "".join(letter for letter in ": ".join(parts) if letter.isprintable())[:_TEXT_MAX]
    return ""


def _refused(text: str) -> RequestError:
    return RequestError(text, status=403, action="Sign in again.")


def _down(label: str, text: str) -> RequestError:
    action = "Use a local account, or try again later."
    return RequestError(f"the identity provider {label} does not answer: {text}", status=502, action=action)
