"""Notices of alarms by e-mail and webhook.

What waits for a channel goes out together: one e-mail, or one request, for a power cut that silences a hundred devices.
Delivery is at least once: after a crash a notice may come again, under the same number.
"""

from __future__ import annotations

import datetime
import email.message
import email.utils
import hashlib
import hmac
import smtplib
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from lineside_hub.alarms.config import (
    PRIORITIES,
    AlarmsConfig,
    EmailConfig,
    Priority,
    Transition,
    WebhookConfig,
    read_secret,
)
from lineside_hub.alarms.storage import Notice
from lineside_hub.http_client import TIMEOUT_S, send, trust
from lineside_runtime.errors import ConfigError, LinesideError, NotificationError, reason_of

EMAIL = "email"

SIGNATURE_HEADER = "X-Lineside-Signature"


class NoticeChannel(Protocol):
    """Delivers notices to one place."""

    name: str

    def deliver(self, notices: Sequence[Notice]) -> None:
        """Delivers them together.

        Raises:
            NotificationError: They were not accepted.
        """


class EmailChannel:
    """Sends notices by SMTP."""

    name = EMAIL

    def __init__(self, config: EmailConfig, site: str) -> None:
        self._config = config
        self._site = site

    def deliver(self, notices: Sequence[Notice]) -> None:
        """As `NoticeChannel.deliver`."""
        config = self._config
        try:
            with self._connect() as smtp:
                if config.security == "starttls":
                    smtp.starttls(context=trust(config.ca))
                if config.username:
                    smtp.login(config.username, read_secret(config.password_file, "alarms.email.password_file"))
                refused = smtp.send_message(self.message(notices))
        except (OSError, smtplib.SMTPException, ConfigError) as error:
            raise NotificationError(f"e-mail by {config.host}:{config.port}: {reason_of(error)}") from error
        if refused:
            raise NotificationError(f"{config.host} refused {', '.join(refused)}")

    def _connect(self) -> smtplib.SMTP:
        config = self._config
        if config.security == "tls":
            return smtplib.SMTP_SSL(config.host, config.port, timeout=TIMEOUT_S, context=trust(config.ca))
        return smtplib.SMTP(config.host, config.port, timeout=TIMEOUT_S)

    def message(self, notices: Sequence[Notice]) -> email.message.EmailMessage:
        """Returns the e-mail."""
        made = email.message.EmailMessage()
        first = notices[0]
        subject = f"{first.transition}: {first.alarm.rule} {first.alarm.device}".strip()
        others = f" and {len(notices) - 1} more" if len(notices) > 1 else ""
        made["Subject"] = f"[lineside {self._site}] {subject}{others}"
        made["From"] = self._config.sender
        made["To"] = ", ".join(self._config.to)
        made["Date"] = email.utils.format_datetime(datetime.datetime.now(datetime.timezone.utc))
        # The same after a crash, so that a mail program shows a repeat once.
        domain = self._config.sender.rpartition("@")[2]
        made["Message-ID"] = f"<alarm-{self._site}-{first.id}-{notices[-1].id}-{first.at_ns}@{domain}>"
        made.set_content("\n".join(map(_line, notices)) + "\n")
        return made


def _line(notice: Notice) -> str:
    at = datetime.datetime.fromtimestamp(notice.at_ns / 1e9, datetime.timezone.utc)
    alarm = notice.alarm
    by = f" by {alarm.acknowledged_by}" if notice.transition == "acknowledged" else ""
    subject = f" {alarm.device}" if alarm.device else ""
    return (
        f"{at:%Y-%m-%d %H:%M:%S} UTC  {notice.transition}{by}  [{alarm.priority}] {alarm.rule}{subject}: {alarm.detail}"
    )


class WebhookChannel:
    """Sends notices by HTTP.

    Args:
        site: Name in the body.
    """

    def __init__(self, config: WebhookConfig, site: str) -> None:
        self.name = config.channel
        self._config = config
        self._site = site

    def deliver(self, notices: Sequence[Notice]) -> None:
        """As `NoticeChannel.deliver`."""
        body = msgspec.json.encode(
            {
                "site": self._site,
                "events": [
                    {"id": one.id, "at_ns": one.at_ns, "transition": one.transition, "alarm": one.alarm}
                    for one in notices
                ],
            }
        )
        headers = {"Content-Type": "application/json"}
        try:
            if self._config.secret_file:
                secret = read_secret(self._config.secret_file, "alarms.webhook.secret_file")
                headers[SIGNATURE_HEADER] = sign(secret, body)
            send(self._config.url, body, headers, ca=self._config.ca)
        except (OSError, ValueError, ConfigError) as error:
            raise NotificationError(f"{self.name}: {reason_of(error)}") from error


def sign(secret: str, body: bytes) -> str:
    """Returns the signature of a webhook's body, which a receiver compares in constant time."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def make_channels(config: AlarmsConfig, site: str) -> list[NoticeChannel]:
    """Returns the channels of a configuration."""
    email_channel = [EmailChannel(config.email, site)] if config.email is not None else []
    return [*email_channel, *(WebhookChannel(each, site) for each in config.webhook)]


def channels_for(config: AlarmsConfig, transition: Transition, priority: Priority) -> list[str]:
    """Returns the names of the channels that are told of a change."""
    wanted: Iterable[tuple[str, EmailConfig | WebhookConfig]] = (
        *([(EMAIL, config.email)] if config.email is not None else []),
        *((each.channel, each) for each in config.webhook),
    )
    return [
        name
        for name, each in wanted
        if transition in each.transitions and PRIORITIES.index(priority) <= PRIORITIES.index(each.priority)
    ]


def try_channel(channel: NoticeChannel, notice: Notice) -> LinesideError | None:
    """Sends a notice now; returns why it was not taken, or ``None``."""
    try:
        channel.deliver([notice])
    except NotificationError as error:
        return error
    return None
