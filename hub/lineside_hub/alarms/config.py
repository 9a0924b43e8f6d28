"""Configuration of alarms: the ``[alarms]`` table of ``hub.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from lineside_runtime.errors import ConfigError

Figure = Literal["silent_s", "reject_rate", "drift", "free_bytes", "hub_free_bytes"]
"""What a rule can watch: seconds since a device lost its connection; the share of rejects, unsure ones included, in the
current hour and ``hours`` before it; drift alarms that a device reports; free bytes on a device's or the hub's disk."""

BELOW: frozenset[Figure] = frozenset({"free_bytes", "hub_free_bytes"})
"""Figures that are abnormal below their limit."""

Priority = Literal["high", "medium", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "medium", "low")

Transition = Literal["raised", "cleared", "acknowledged"]


class AlarmRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule on a figure: ``[[alarms.rule]]``.

    Attributes:
        name: Its own, 1 to 64 letters, digits, ``.``, ``_`` or ``-``; an alarm keeps it.
        figure: ``silent_s``, ``reject_rate``, ``drift``, ``free_bytes`` or ``hub_free_bytes``.
        limit: The alarm is raised above it; ``free_bytes`` and ``hub_free_bytes`` below it.
        clear: The alarm is over only beyond this value, so that a figure near the limit does not raise it again and
            again; the limit by default.
        for_s: The figure must be beyond the limit for so long.
        priority: ``high``, ``medium`` or ``low``.
        group: Only devices of this group; empty for all.
        hours: Of ``reject_rate``: whole hours before the current one that count too.
        min_results: Of ``reject_rate``: with fewer inspected parts nothing is said.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    figure: Figure
    limit: float
    clear: float | None = None
    for_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    priority: Priority = "medium"
    group: str = ""
    hours: Annotated[int, msgspec.Meta(ge=0, le=168)] = 1
    min_results: Annotated[int, msgspec.Meta(ge=1)] = 100

    def __post_init__(self) -> None:
        if self.clear is None:
            return
        is_inside = self.clear >= self.limit if self.figure in BELOW else self.clear <= self.limit
        if not is_inside:
            expected = "at least the limit" if self.figure in BELOW else "at most the limit"
            raise ConfigError(f"alarms.rule {self.name}: clear", expected=expected, actual=self.clear)


class EmailConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Notices by e-mail: the ``[alarms.email]`` table.

    Attributes:
        host: The SMTP server.
        port: Its port.
        security: ``starttls``, ``tls`` (from the first byte) or ``none``.
        ca: File with the certificates to trust, relative to that of the configuration; the system's if empty.
        username: For servers that require name and password.
        password_file: File with the password in its first line; relative as ``ca``.
        sender: Address that it comes from.
        to: Addresses that it goes to.
        transitions: What is sent: ``raised``, ``cleared``, ``acknowledged``.
        priority: Only alarms of this priority or a higher one.
    """

    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca: str = ""
    username: str = ""
    password_file: str = ""
    sender: str
    to: tuple[str, ...]
    transitions: tuple[Transition, ...] = ("raised", "cleared")
    priority: Priority = "low"

    def __post_init__(self) -> None:
        for address in (self.sender, *self.to):
            if "@" not in address or any(character in address for character in "\r\n"):
                raise ConfigError("alarms.email", expected="addresses such as name@plant.example", actual=address)
        if not self.to:
            raise ConfigError("alarms.email.to", expected="one address or more", actual="none")
        if bool(self.username) != bool(self.password_file):
            raise ConfigError("alarms.email", expected="username and password_file, or neither")
        if self.username and self.security == "none":
            raise ConfigError("alarms.email would send a password in the clear", expected='security = "starttls"')


class WebhookConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Notices to another program by HTTP: ``[[alarms.webhook]]``.

    Attributes:
        url: ``https://…`` or ``http://…``, without a password; it gets a POST with JSON.
        secret_file: File with a secret in its first line, relative to that of the configuration; the header
            ``X-Lineside-Signature`` is then ``sha256=`` and the HMAC-SHA256 of the body.
        ca: File with the certificates to trust, relative as ``secret_file``; the system's if empty.
        transitions: What is sent: ``raised``, ``cleared``, ``acknowledged``.
        priority: Only alarms of this priority or a higher one.
    """

    url: str
    secret_file: str = ""
    ca: str = ""
    transitions: tuple[Transition, ...] = ("raised", "cleared", "acknowledged")
    priority: Priority = "low"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("alarms.webhook.url", expected="https://… or http://…", actual=self.url)
        if parts.password or parts.username:
            raise ConfigError("alarms.webhook.url holds a password", action="Use secret_file.")

    @property
    def channel(self) -> str:
        """Its name in the list of notices."""
        return f"webhook {self.url}"


DEFAULT_RULES = (
    AlarmRule(name="device-silent", figure="silent_s", limit=300.0, priority="high"),
    AlarmRule(name="device-disk", figure="free_bytes", limit=500e6, clear=600e6, for_s=60.0),
    AlarmRule(name="drift", figure="drift", limit=0.0, for_s=60.0),
    AlarmRule(name="hub-disk", figure="hub_free_bytes", limit=1e9, clear=1.2e9, for_s=60.0, priority="high"),
)
"""Rules of a hub that names none; a limit of a reject rate depends on the line."""


class AlarmsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Alarms of the fleet: the ``[alarms]`` table.

    Attributes:
        rule: The rules; without any those on silent devices, drift, and the disks of devices and hub.
        every_s: How often figures are read.
        mqtt: Whether the open alarms of each device are published on ``ls/v1/<site>/alarms/<device>``.
        email: Notices by e-mail; unset for none.
        webhook: Notices to other programs.
    """

    rule: tuple[AlarmRule, ...] = DEFAULT_RULES
    every_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 10.0
    mqtt: bool = True
    email: EmailConfig | None = None
    webhook: tuple[WebhookConfig, ...] = ()

    def __post_init__(self) -> None:
        _check_unique([rule.name for rule in self.rule], "alarms.rule.name")
        _check_unique([hook.url for hook in self.webhook], "alarms.webhook.url")


def _check_unique(values: Sequence[str], what: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(what, expected="each once", actual=value)


def read_secret(path: str, what: str) -> str:
    """Returns the first line of a file with a secret.

    Args:
        what: The key of ``hub.toml``, for the message.

    Raises:
        ConfigError: It cannot be read, or is empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path}: {error}", action="Give a readable text file.") from error
    if not lines or not lines[0]:
        raise ConfigError(f"{what} {path}", expected="a secret in its first line", actual="nothing")
    return lines[0]
