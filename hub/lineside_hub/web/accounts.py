"""Accounts of the fleet dashboard, their roles and their sessions.

Passwords are stored as Argon2id digests; of a session only a digest of its token is stored. Both leave the hub by no
interface. A session of a browser ends when it idles; one with a label is an API token, made by
``lineside hub user token``, and ends at its time.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
import time
from typing import Literal, get_args

import argon2
import msgspec

from lineside_hub.results.database import Database
from lineside_runtime.errors import ConfigError, InputNotFoundError, RequestError

Role = Literal["watch", "operate", "administer"]

ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""

NAME_MAX = 64
PASSWORD_LENGTHS = (10, 256)

IDLE_S = 3600.0
"""A browser's session ends so long after its last use; a page that refreshes itself is no use."""

SESSION_MAX_S = 12 * 3600.0

TOKEN_DAYS_MAX = 366.0

DAY_S = 86_400.0

_USED_EVERY_S = 60.0
"""How exactly the last use is stored."""

FREE_TRIES = 5
"""Wrong passwords of one account or one address without a pause."""

PAUSE_FIRST_S, PAUSE_MAX_S = 2.0, 900.0

_THROTTLED_MAX = 4096

_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 << 10, parallelism=1)
"""OWASP's least for Argon2id, since the hub is bounded in memory: 19 MiB for some 25 ms."""

_NOBODY = _HASHER.hash(secrets.token_hex())
"""Checked for an unknown name, which takes as long as a known one."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account without its password.

    Attributes:
        created_at_ns: Unix time.
    """

    name: str
    role: Role
    created_at_ns: int


class Principal(msgspec.Struct, frozen=True):
    """Who sends a request.

    Attributes:
        name: Of the account; empty for nobody.
        role: ``None`` for nobody.
        issuer: Of the identity provider that let it sign in; empty for a local account.
    """

    name: str = ""
    role: Role | None = None
    issuer: str = ""

    def may(self, role: Role) -> bool:
        """Returns whether it may do what the role may."""
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(role)


def list_accounts(database: Database) -> list[Account]:
    """Returns the accounts, sorted by name."""
    rows = database.query("SELECT name, role, created_at_ns FROM accounts ORDER BY name")
    return [Account(**dict(row)) for row in rows]


def find_account(database: Database, name: str) -> Account:
    """Returns an account.

    Raises:
        InputNotFoundError: There is none of this name.
    """
    rows = database.query("SELECT name, role, created_at_ns FROM accounts WHERE name = ?", name)
    if not rows:
        raise InputNotFoundError(f"no account is called {name!r}", action="`lineside hub user ls` shows them.")
    return Account(**dict(rows[0]))


def set_account(database: Database, name: str, role: Role, password: str | None) -> None:
    """Adds an account or changes one, inside the caller's transaction; a changed one is signed out everywhere.

    Args:
        password: ``None`` keeps the one of an existing account.

    Raises:
        ConfigError: The name, the role or the password cannot be used.
        RequestError: Nobody could administer any more.
    """
    if not 1 <= len(name) <= NAME_MAX or not name.isprintable() or name != name.strip():
        raise ConfigError(
            "name",
            expected=f"1 to {NAME_MAX} printable characters, no space at the ends",
            actual=repr(name[: NAME_MAX + 1]),
            action="Give another name.",
        )
    if name.endswith(")"):
        raise ConfigError(
            "name", expected="no ) at its end, as names of an identity provider's people have", actual=name
        )
    if role not in ROLES:
        raise ConfigError("role", expected=", ".join(ROLES), actual=role)
    if password is None and not database.query("SELECT 1 FROM accounts WHERE name = ?", name):
        raise ConfigError("password", expected="one for a new account", action="Give it a password.")
    _check_last_administrator(database, name, role)
    digest = None if password is None else _new_digest(name, password)
    connection = database.connection
    connection.execute(
        "INSERT INTO accounts (name, role, password, created_at_ns) VALUES (?1, ?2, coalesce(?3, ''), ?4) "
        "ON CONFLICT (name) DO UPDATE SET role = ?2, password = coalesce(?3, password)",
        (name, role, digest, time.time_ns()),
    )
    connection.execute("DELETE FROM sessions WHERE name = ? AND label = '' AND issuer = ''", (name,))


def remove_account(database: Database, name: str) -> None:
    """Removes an account with its sessions and tokens, inside the caller's transaction.

    Raises:
        InputNotFoundError: There is none of this name.
        RequestError: Nobody could administer any more.
    """
    find_account(database, name)
    _check_last_administrator(database, name, None)
    database.connection.execute("DELETE FROM accounts WHERE name = ?", (name,))
    database.connection.execute("DELETE FROM sessions WHERE name = ? AND issuer = ''", (name,))


def _check_last_administrator(database: Database, name: str, role: Role | None) -> None:
    """Refuses to take the role from the only account that may administer; ``role`` is the new one."""
    administrators = [one.name for one in list_accounts(database) if one.role == "administer"]
    if role != "administer" and administrators == [name]:
        raise RequestError(
            f"{name} is the last account that may administer",
            status=409,
            action="Give another account this role first: in the dashboard, or lineside hub user add NAME --role "
            "administer.",
        )


def _new_digest(name: str, password: str) -> str:
    least, most = PASSWORD_LENGTHS
    action = "Choose another one, such as four words."
    if not least <= len(password) <= most:
        expected, actual = f"{least} to {most} characters", f"{len(password)} characters"
        raise ConfigError("password", expected=expected, actual=actual, action=action)
    if len(set(password)) < 4 or name.lower() in password.lower():
        raise ConfigError("password", expected="4 different characters and not the name", action=action)
    return _HASHER.hash(password)


class LoginThrottle:
    """Pauses that grow with the wrong passwords of an account or an address; in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wrong: dict[str, tuple[int, float]] = {}

    def check(self, *keys: str) -> None:
        """Counts a try, which `succeed` takes back.

        Raises:
            RequestError: It is too early for another one.
        """
        now_s = time.monotonic()
        with self._lock:
            waits_s = max(self._wrong.get(key, (0, 0.0))[1] for key in keys) - now_s
            if waits_s > 0:
                raise RequestError("too many failed sign-ins", status=429, action=f"Wait {math.ceil(waits_s)} s.")
            for key in keys:  # counted before the check: parallel tries are counted too
                count = self._wrong.pop(key, (0, 0.0))[0] + 1
                pause_s = 0.0 if count < FREE_TRIES else min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** (count - FREE_TRIES))
                self._wrong[key] = (count, now_s + pause_s)
            while len(self._wrong) > _THROTTLED_MAX:
                del self._wrong[next(iter(self._wrong))]

    def succeed(self, *keys: str) -> None:
        """Forgets the wrong passwords."""
        with self._lock:
            for key in keys:
                self._wrong.pop(key, None)


def check_password(database: Database, name: str, password: str) -> Account:
    """Returns the account of a name and its password.

    Raises:
        RequestError: One of them is wrong.
    """
    rows = database.query("SELECT password FROM accounts WHERE name = ?", name)
    digest = rows[0]["password"] if rows and rows[0]["password"] else ""
    try:
        _HASHER.verify(digest or _NOBODY, password[: PASSWORD_LENGTHS[1]])
    except argon2.exceptions.VerifyMismatchError:
        digest = ""
    if not digest:
        raise RequestError("the name or the password is wrong", status=401, action="Try again.")
    return find_account(database, name)


class ProviderSession(msgspec.Struct, frozen=True, kw_only=True):
    """What a session of an identity provider's person has instead of an account.

    Attributes:
        role: While it lasts.
        id_token: Sent back to the provider when it ends.
    """

    issuer: str
    role: Role
    id_token: str


def begin_session(
    database: Database,
    name: str,
    *,
    label: str = "",
    lasts_s: float = SESSION_MAX_S,
    provider: ProviderSession | None = None,
) -> str:
    """Begins a session of an account; returns its token.

    Args:
        label: Of an API token; empty for a browser.
        provider: Who vouches for the person; ``None`` for a local account.
    """
    token, now_s = secrets.token_urlsafe(32), time.time()
    issuer, role, id_token = (provider.issuer, provider.role, provider.id_token) if provider else ("", "", "")
    with database.transaction() as connection:
        connection.execute("DELETE FROM sessions WHERE ends_at_s < ?", (now_s,))
        connection.execute(
            "INSERT INTO sessions (digest, name, label, begun_at_s, used_at_s, ends_at_s, issuer, role, id_token) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (_token_digest(token), name, label, now_s, now_s, now_s + lasts_s, issuer, role, id_token),
        )
    return token


class ProviderPerson(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is signed in by the identity provider.

    Attributes:
        sessions: How many.
        used_at_s: Unix time of the last use.
    """

    name: str
    role: Role
    issuer: str
    sessions: int
    used_at_s: float


def list_provider_people(database: Database) -> list[ProviderPerson]:
    """Returns who is signed in by an identity provider, sorted by name."""
    now_s = time.time()
    rows = database.query(
        "SELECT name, role, issuer, count(*) AS sessions, max(used_at_s) AS used_at_s FROM sessions "
        "WHERE issuer <> '' AND ends_at_s > ?1 AND used_at_s > ?1 - ?2 GROUP BY name, role, issuer ORDER BY name",
        now_s,
        IDLE_S,
    )
    return [ProviderPerson(**dict(row)) for row in rows]


def end_provider_sessions(database: Database, name: str) -> None:
    """Ends all sessions of a person of an identity provider, inside the caller's transaction.

    Raises:
        InputNotFoundError: There is none.
    """
    ended = database.connection.execute("DELETE FROM sessions WHERE name = ? AND issuer <> ''", (name,))
    if not ended.rowcount:
        raise InputNotFoundError(f"{name!r} has no session", action="GET /api/v1/provider-sessions lists them.")


def end_session(database: Database, token: str) -> str:
    """Ends a session, if there is one; returns its ID token, which is empty for a local account."""
    with database.transaction() as connection:
        rows = connection.execute("DELETE FROM sessions WHERE digest = ? RETURNING id_token", (_token_digest(token),))
        return "".join(row["id_token"] for row in rows)


def find_principal(database: Database, token: str, *, is_token: bool, acts: bool, issuer: str = "") -> Principal:
    """Returns whose session it is; nobody if it has ended.

    Args:
        is_token: Whether the client presents it as an API token.
        acts: Whether a person does something, which keeps a browser's session alive.
        issuer: Of the configured identity provider; sessions of another one have ended.
    """
    rows = database.query(
        "SELECT s.digest, s.name, s.label, s.used_at_s, s.ends_at_s, s.issuer, coalesce(a.role, s.role) AS role "
        "FROM sessions s LEFT JOIN accounts a ON a.name = s.name AND s.issuer = '' "
        "WHERE s.digest = ?1 AND ((s.issuer = '' AND a.role IS NOT NULL) OR (s.issuer <> '' AND s.issuer = ?2))",
        _token_digest(token),
        issuer,
    )
    if not rows or bool(rows[0]["label"]) != is_token:
        return Principal()
    [row] = rows
    now_s = time.time()
    if now_s > row["ends_at_s"] or (not is_token and now_s - row["used_at_s"] > IDLE_S):
        return Principal()
    if acts and now_s - row["used_at_s"] > _USED_EVERY_S:
        with database.transaction() as connection:
            connection.execute("UPDATE sessions SET used_at_s = ? WHERE digest = ?", (now_s, row["digest"]))
    return Principal(row["name"], row["role"], row["issuer"])


def _token_digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
