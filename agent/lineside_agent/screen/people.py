"""People with a PIN and a role, and their sessions.

The PINs are in ``people.json`` as salted scrypt digests, readable by the agent's user only, and leave the device by no
interface. A PIN has few digits, so what protects it is the throttle: after `FREE_TRIES` wrong ones each further try
waits longer, for this person alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import msgspec

from lineside_agent.storage.state_file import peek_state, write_state
from lineside_runtime.errors import ConfigError, InputNotFoundError, RequestError

Role = Literal["watch", "operate", "set_up"]

ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""

NAME = "people.json"
NAME_MAX = 40
PEOPLE_MAX = 100
PIN_LENGTHS = (4, 12)

FREE_TRIES = 3
PAUSE_FIRST_S = 5.0
PAUSE_MAX_S = 900.0

IDLE_S = 600.0
"""So long after the last action a person must enter the PIN again to do something."""

SESSION_MAX_S = 12 * 3600.0

SESSIONS_MAX = 64

_SCRYPT = {"n": 1 << 13, "r": 8, "p": 1, "maxmem": 32 << 20}
"""8 MB for some 30 ms."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A person.

    Attributes:
        salt: In hexadecimal digits.
        digest: Of the PIN, in hexadecimal digits.
    """

    name: str
    role: Role
    salt: str
    digest: str


class PeopleFile(msgspec.Struct, frozen=True, kw_only=True):
    """The people on disk."""

    people: tuple[Person, ...] = ()


class Visitor(msgspec.Struct, frozen=True):
    """Who sends a request.

    Attributes:
        name: Empty for somebody unknown.
        role: ``None`` for somebody who may do nothing.
    """

    name: str
    role: Role | None

    def may(self, role: Role) -> bool:
        """Returns whether the visitor may do what the role may."""
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(role)


def read_people(folder: Path) -> tuple[Person, ...]:
    """Returns the people.

    Raises:
        StoreError: The file can't be read.
    """
    found = peek_state(folder / NAME, PeopleFile)
    return () if found is None else found.people


def add_person(folder: Path, name: str, role: Role, pin: str) -> None:
    """Adds a person, or gives one another PIN and role.

    Raises:
        ConfigError: The name or the PIN is no good, or there are too many people.
    """
    if not name.strip() or len(name) > NAME_MAX or not name.isprintable():
        raise ConfigError("name", expected=f"1 to {NAME_MAX} printable characters", actual=name[: NAME_MAX + 1])
    if not (pin.isascii() and pin.isdigit() and PIN_LENGTHS[0] <= len(pin) <= PIN_LENGTHS[1]):
        raise ConfigError("PIN", expected=f"{PIN_LENGTHS[0]} to {PIN_LENGTHS[1]} digits", action="Choose another one.")
    if len(set(pin)) == 1 or pin in "0123456789" or pin in "9876543210":
        raise ConfigError("PIN", expected="no single digit and no sequence", action="Choose another one.")
    salt = secrets.token_bytes(16)
    person = Person(name=name, role=role, salt=salt.hex(), digest=_digest(pin, salt).hex())
    people = (*(one for one in read_people(folder) if one.name != name), person)
    if len(people) > PEOPLE_MAX:
        raise ConfigError("people", expected=f"at most {PEOPLE_MAX}", action="Remove somebody first.")
    _write(folder, people)


def remove_person(folder: Path, name: str) -> None:
    """Removes a person.

    Raises:
        InputNotFoundError: There is nobody of this name.
    """
    people = read_people(folder)
    if name not in [one.name for one in people]:
        action = "`lineside agent person ls` shows who there is."
        raise InputNotFoundError(f"nobody is called {name!r}", action=action)
    _write(folder, tuple(one for one in people if one.name != name))


def _write(folder: Path, people: tuple[Person, ...]) -> None:
    write_state(folder / NAME, PeopleFile(people=people))
    (folder / NAME).chmod(0o600)


def _digest(pin: str, salt: bytes) -> bytes:
    return hashlib.scrypt(pin.encode(), salt=salt, dklen=32, **_SCRYPT)


class _Session(msgspec.Struct):
    name: str
    digest: str
    begun_s: float
    used_s: float


class Sessions:
    """The sessions of the people of one device; in memory, so that a restart ends all.

    Args:
        folder: With `NAME`, which is read again for each session: a person who is removed is out at once.
        clock: Seconds that no change of the time affects.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}
        self._wrong: dict[str, tuple[int, float]] = {}
        self._people: tuple[Person, ...] = ()
        self._read_ns = -1

    def people(self) -> tuple[Person, ...]:
        """Returns the people; the file is read when it has changed."""
        try:
            changed_ns = (self._folder / NAME).stat().st_mtime_ns
        except FileNotFoundError:
            changed_ns = 0
        if changed_ns != self._read_ns:
            self._people, self._read_ns = read_people(self._folder), changed_ns
        return self._people

    def begin(self, name: str, pin: str) -> str:
        """Checks a PIN, and returns the token of a new session. It takes some 30 ms of a core.

        Raises:
            RequestError: The PIN is wrong (401), or it is too early for another try (429).
        """
        known = next((one for one in self.people() if one.name == name), None)
        with self._lock:
            now_s = self._clock()
            count, until_s = self._wrong.get(name, (0, 0.0))
            if now_s < until_s:
                raise RequestError(
                    "too many wrong PINs", status=429, action=f"Wait {until_s - now_s:.0f} s.", expected="a pause"
                )
            if known is not None:  # counted before the check: parallel tries are counted too
                pause_s = 0.0 if count + 1 < FREE_TRIES else PAUSE_FIRST_S * 2.0 ** (count + 1 - FREE_TRIES)
                self._wrong[name] = (count + 1, now_s + min(PAUSE_MAX_S, pause_s))
        salt = b"" if known is None else bytes.fromhex(known.salt)
        is_right = hmac.compare_digest(_digest(pin[:64], salt).hex(), "" if known is None else known.digest)
        if known is None or not is_right:
            raise RequestError("the name or the PIN is wrong", status=401, action="Try again.")
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._wrong.pop(name, None)
            while len(self._sessions) >= SESSIONS_MAX:
                del self._sessions[min(self._sessions, key=lambda one: self._sessions[one].used_s)]
            self._sessions[token] = _Session(name, known.digest, self._clock(), self._clock())
        return token

    def end(self, token: str) -> None:
        """Ends a session, if there is one."""
        with self._lock:
            self._sessions.pop(token, None)

    def visitor(self, token: str, *, acts: bool) -> Visitor | None:
        """Returns whose session it is; ``None`` if it has ended. After `IDLE_S` a person may only watch.

        Args:
            acts: Whether the person does something, which keeps the session alive.
        """
        people = self.people()
        with self._lock:
            session = self._sessions.get(token)
            if session is None:
                return None
            person = next((one for one in people if (one.name, one.digest) == (session.name, session.digest)), None)
            now_s = self._clock()
            if person is None or now_s - session.begun_s > SESSION_MAX_S:
                del self._sessions[token]
                return None
            if now_s - session.used_s > IDLE_S:
                return Visitor(person.name, "watch")
            if acts:
                session.used_s = now_s
            return Visitor(person.name, person.role)
