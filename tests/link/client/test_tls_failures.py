"""A connection that fails for a certificate says whose it is, and what to do."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside_hub.identity.authority import Authority
from lineside_hub.identity.registry import Registry
from lineside_link.certificates import key_bytes, new_key
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from tests.peers import SecureMosquitto, find_mosquitto, wait_for

MakeClient = Callable[..., LinkClient]


def issue(authority: Authority, folder: Path, *, days: float) -> tuple[str, str]:
    """Issues a certificate of cam-1; returns the paths of certificate and key."""
    key = new_key()
    registry = Registry.read(authority.folder)
    issued = authority._issue(registry, "cam-1", key.public_key(), kind="device", days=days)
    registry.write(authority.folder)
    certificate = folder / "cert.pem"
    certificate.write_text(issued.certificate)
    (folder / "key.pem").write_bytes(key_bytes(key))
    return str(certificate), str(folder / "key.pem")


def failure(client: LinkClient) -> str:
    """Starts the client; returns why it does not connect."""
    client.start()
    wait_for(lambda: client.last_error is not None, what="the failure")
    assert not client.connected
    return str(client.last_error)


def test_a_device_whose_certificate_has_expired_says_so(
    secure_mosquitto: SecureMosquitto, make_client: MakeClient, tmp_path: Path
) -> None:
    certificate, key = issue(secure_mosquitto.authority, tmp_path, days=-0.1)
    config = secure_mosquitto.config_with(secure_mosquitto.enroll("cam-1"))
    expired = LinkConfig(config.url, config.site, ca=config.ca, certificate=certificate, key=key)
    said = failure(make_client(expired, "cam-1"))
    assert f"this side's certificate {certificate} expired at" in said
    assert "lineside hub enroll" in said


def test_a_broker_whose_certificate_has_expired_is_named(make_client: MakeClient, tmp_path: Path) -> None:
    broker = SecureMosquitto(tmp_path, program=find_mosquitto())
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=800)
    broker.start()
    try:
        said = failure(make_client(broker.config("cam-1"), "cam-1", now=lambda: later))
    finally:
        broker.stop()
    assert "the broker's certificate has expired" in said
    assert "lineside hub secure --renew" in said
    assert "clock" in said


@pytest.mark.parametrize("kind", ["foreign", "revoked"])
def test_a_refused_certificate_is_named(make_client: MakeClient, tmp_path: Path, kind: str) -> None:
    broker = SecureMosquitto(tmp_path, program=find_mosquitto())
    config = broker.config("cam-1")
    if kind == "foreign":
        foreign = Authority.create(tmp_path / "foreign", site="t0").enroll("cam-1", group="line")
        ca = config.ca
        config = broker.config_with(foreign)
        config = LinkConfig(config.url, config.site, ca=ca, certificate=config.certificate, key=config.key)
    else:
        broker.authority.revoke("cam-1")
    broker.start()
    try:
        client = make_client(config, "cam-1")
        what = "is revoked" if kind == "revoked" else "doesn't know the authority"

        def is_named() -> bool:
            error = str(client.last_error)
            return what in error and str(config.certificate) in error

        client.start()
        # The broker may have closed the connection before its refusal is read; the next attempt reads it.
        wait_for(is_named, what=what)
    finally:
        broker.stop()
