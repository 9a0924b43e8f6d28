"""Names what is wrong with a certificate when a TLS connection fails.

OpenSSL names the check that failed, and not whose certificate it was. With TLS 1.3 the broker's refusal comes after the
handshake, and a connection that the broker has closed by then hides it: so this side's own certificate is looked at
after each failure.
"""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from lineside_link.certificates import read_certificate
from lineside_link.config import CERTIFICATE_HAS_EXPIRED, LinkConfig
from lineside_runtime.errors import BrokerError, LinesideError

_OWN_ACTION = (
    "Of a device: lineside hub enroll, put the files on the device, and restart the agent. "
    "Of the hub: lineside hub secure --renew, and restart mosquitto and the hub."
)

_BROKERS_ACTION = "At the hub: lineside hub secure --renew, and restart mosquitto and the hub."

_REFUSALS = {
    "CERTIFICATE_EXPIRED": "says that this side's certificate has expired",
    "CERTIFICATE_REVOKED": "says that this side's certificate is revoked",
    "UNKNOWN_CA": "doesn't know the authority of this side's certificate",
    "BAD_CERTIFICATE": "refuses this side's certificate",
    "CERTIFICATE_UNKNOWN": "refuses this side's certificate",
    "CERTIFICATE_REQUIRED": "requires a certificate",
}
"""Ends of OpenSSL's names of alerts (RFC 8446, section 6.2), and what the broker says by them."""

_NAMES_ANOTHER = (62, 64)
"""OpenSSL's ``X509_V_ERR_HOSTNAME_MISMATCH`` and ``X509_V_ERR_IP_ADDRESS_MISMATCH`` (x509_vfy.h)."""


def tls_failure(config: LinkConfig, cause: Exception | None, *, now: datetime.datetime) -> BrokerError | None:
    """Returns what is wrong with a certificate; ``None`` if the failure is about something else.

    Args:
        cause: Why the connection failed.
        now: The time by which certificates are checked.
    """
    if not config.tls:
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _brokers(config, cause)
    ends = _own_end(config)
    if ends and ends < now:
        what = f"this side's certificate {config.certificate} expired at {ends:%Y-%m-%d %H:%M} UTC"
        return BrokerError(f"{config.url}: {what}", action=_OWN_ACTION)
    reason = str(getattr(cause, "reason", ""))
    refusal = next((text for name, text in _REFUSALS.items() if reason.endswith(name)), "")
    if not refusal:
        return None
    own = f": {config.certificate}" if config.certificate else ""
    if ends and reason.endswith("CERTIFICATE_EXPIRED"):
        own += f"; it ends at {ends:%Y-%m-%d %H:%M} UTC: a clock is wrong, the broker's or this machine's"
    return BrokerError(f"{config.url} {refusal}{own}", action=_OWN_ACTION)


def _brokers(config: LinkConfig, cause: ssl.SSLCertVerificationError) -> BrokerError:
    code = getattr(cause, "verify_code", 0)
    if code == CERTIFICATE_HAS_EXPIRED:
        action = f"{_BROKERS_ACTION} If it is valid, this machine's clock is wrong."
        return BrokerError(f"{config.url}: the broker's certificate has expired", action=action)
    if code in _NAMES_ANOTHER:
        what = f"the broker's certificate doesn't name {config.host}"
        action = f"Set link.url, or at the hub: lineside hub secure --renew --host {config.host}, and restart both."
        return BrokerError(f"{config.url}: {what}", action=action)
    what = getattr(cause, "verify_message", "") or cause.strerror or str(cause)
    return BrokerError(
        f"{config.url}: the broker's certificate is refused: {what}",
        action=f"Check that link.ca {config.ca} is the authority of this broker.",
    )


def _own_end(config: LinkConfig) -> datetime.datetime | None:
    if config.certificate is None:
        return None
    try:
        return read_certificate(Path(config.certificate).read_bytes()).not_valid_after_utc
    except (LinesideError, OSError):
        return None
