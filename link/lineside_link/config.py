"""Address and credentials for the broker: the ``[link]`` table of ``agent.toml`` and ``hub.toml``."""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec

from lineside_link.topics import check_name
from lineside_runtime.errors import ConfigError

log = logging.getLogger("lineside.link")

PORTS = {"mqtt": 1883, "mqtts": 8883}
"""The ports that IANA registered for MQTT without and with TLS."""


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself after a failed handshake; paho drops the socket then, and each attempt would leak one."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


Now = Callable[[], datetime]
"""Gives the time, in UTC."""

_NO_CHECK_TIME = 0x200000
"""OpenSSL's ``X509_V_FLAG_NO_CHECK_TIME`` (x509_vfy.h), to which Python gives no name."""

CERTIFICATE_HAS_EXPIRED = 10
"""OpenSSL's ``X509_V_ERR_CERT_HAS_EXPIRED`` (x509_vfy.h)."""


def _dated(now: Now) -> type[_ClosingSocket]:
    """Returns a socket class that checks the expiry of the peer's certificate by another clock."""

    class DatedSocket(_ClosingSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            peer = self.getpeercert() or {}
            ends = ssl.cert_time_to_seconds(str(peer["notAfter"])) if "notAfter" in peer else 0
            if now().timestamp() > ends:
                self.close()
                error = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, f"it expired at {peer.get('notAfter')}")
                error.verify_code, error.verify_message = CERTIFICATE_HAS_EXPIRED, "certificate has expired"
                raise error

    return DatedSocket


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class LinkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Address and credentials for the broker.

    Attributes:
        url: ``mqtt://host:1883``, or ``mqtts://host:8883`` with TLS.
        site: Name of the site; every topic starts with ``ls/v1/<site>``.
        ca: File with the certificate of the authority that signed the broker's; required with ``mqtts``.
        certificate: File with the client certificate, for brokers that require one.
        key: File with the private key of ``certificate``.
        username: For brokers that require name and password.
        password_file: File with the password in its first line, so that no password is in a configuration.
        keepalive_s: A connection that is silent for longer is probed; after twice this it is considered dead.
        reconnect_min_s: First pause before the next attempt to connect.
        reconnect_max_s: Longest pause; pauses double up to it, with jitter.
    """

    url: str
    site: str
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    username: str | None = None
    password_file: str | None = None
    keepalive_s: int = 15
    reconnect_min_s: float = 0.25
    reconnect_max_s: float = 30.0

    def __post_init__(self) -> None:
        check_name(self.site, "site")
        _check_url(self.url)
        self._check_credentials()
        if not 1 <= self.keepalive_s <= 3600:
            raise ConfigError("link.keepalive_s", expected="1 to 3600", actual=self.keepalive_s)
        if not 0.01 <= self.reconnect_min_s <= self.reconnect_max_s:
            raise ConfigError(
                "link.reconnect_min_s", expected=f"0.01 to {self.reconnect_max_s}", actual=self.reconnect_min_s
            )

    def _check_credentials(self) -> None:
        if self.tls and self.ca is None:
            raise ConfigError(
                "link.ca is missing", expected="the authority's certificate for mqtts://", action="Set link.ca."
            )
        for name in ("ca", "certificate", "key"):
            if not self.tls and getattr(self, name) is not None:
                raise ConfigError(f"link.{name} does nothing without TLS", expected="mqtts://", actual=self.url)
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("link.certificate and link.key", expected="both or neither")
        if self.password_file is not None and self.username is None:
            raise ConfigError("link.password_file without link.username", expected="both, or a name alone")

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.url.startswith("mqtts:")

    @property
    def host(self) -> str:
        """The broker's name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The broker's port."""
        parts = urlsplit(self.url)
        return parts.port or PORTS[parts.scheme]

    @property
    def loopback(self) -> bool:
        """Whether the broker is on this machine."""
        return is_loopback(self.host)

    def password(self) -> str | None:
        """Reads the first line of ``password_file``.

        Raises:
            ConfigError: It cannot be read.
        """
        if self.password_file is None:
            return None
        path = Path(self.password_file)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            others_read = path.stat().st_mode & 0o077
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"link.password_file {path}: {error}", action="Give a readable text file.") from error
        if others_read:
            log.warning("%s can be read by others: chmod 600 it", path)
        return lines[0] if lines else ""

    def tls_context(self, *, now: Now | None = None) -> ssl.SSLContext | None:
        """Returns a context that trusts ``ca`` alone, checks the broker's name and speaks TLS 1.2 or newer.

        Args:
            now: Clock for a device whose own may be unset: the broker's certificate must not have expired by it. A
                certificate that is not valid yet is accepted then, because with a clock in 1970 none is valid.
                ``None`` for the system's clock and both checks.

        Raises:
            ConfigError: A certificate or key cannot be read, or the two do not belong together.
        """
        if not self.tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _ClosingSocket
        if now is not None:
            context.verify_flags |= _NO_CHECK_TIME
            context.sslsocket_class = _dated(now)
        try:
            context.load_verify_locations(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"link.ca {self.ca}, link.certificate {self.certificate}, link.key {self.key}: {error}",
                action="Give PEM files; the key must be the certificate's own and readable.",
            ) from error
        return context


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in PORTS and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError("link.url", expected="mqtt://host:1883 or mqtts://host:8883", actual=url)
    _check_rest(parts)


def _check_rest(parts: SplitResult) -> None:
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "link.url holds a name or password",
            action="Set link.username and link.password_file instead; a URL is seen in logs.",
        )
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError("link.url", expected="nothing after the port", actual=parts.path + parts.query)
