"""Mutual TLS of a site: authority, certificates of broker and hub, and an identity for each device."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import tomli_w
from cryptography import x509

from lineside_hub.config import CONFIG_NAME, IDENTITY_NAME, folder_config
from lineside_hub.folder_lock import folder_lock
from lineside_hub.identity.access_lists import access_list, missing_rights, mosquitto_configuration
from lineside_hub.identity.authority import BROKER_NAME as BROKER
from lineside_hub.identity.authority import (
    TOKEN_HOURS,
    Authority,
    Credentials,
    check_hosts,
    enrolled_devices,
    read_claims,
)
from lineside_hub.repository.repository import Repository
from lineside_link.certificates import EnrolmentToken, read_certificate
from lineside_link.config import PORTS, LinkConfig
from lineside_link.topics import check_name
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError, InputNotFoundError
from lineside_runtime.files import write_atomic

ACCESS_NAME = "mosquitto.acl"
BROKER_NAME = "mosquitto.conf"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SecuredSite:
    """Files of a secured site.

    Attributes:
        broker_configuration: For ``mosquitto -c``.
        hub_configuration: The hub's ``hub.toml`` with TLS.
    """

    broker_configuration: Path
    hub_configuration: Path
    url: str


def secure(
    folder: Path | str, *, hosts: Sequence[str], port: int = PORTS["mqtts"], passphrase: str | None = None
) -> SecuredSite:
    """Makes the authority, the broker's and the hub's certificates, and mosquitto's files.

    A run that was interrupted is finished by the next.

    Args:
        folder: The hub's folder, with its ``hub.toml``, of which the ``[link]`` table is written again.
        hosts: Names and addresses under which the broker is reached; the hub uses the first.
        passphrase: Encrypts the authority's key, if given.

    Raises:
        InputNotFoundError: There is no ``hub.toml``.
        ConfigError: The site is secured already, or a host, port or name cannot be used.
        SignatureError: The passphrase doesn't open the key of an authority that an interrupted run made.
    """
    hub = Path(folder).resolve()
    identity = hub / IDENTITY_NAME
    site = folder_config(hub).link.site
    url = _broker_url(hosts, port, site)
    if (identity / BROKER_NAME).exists():
        action = "`lineside hub secure --renew` issues new certificates for broker and hub, also for other hosts."
        raise ConfigError(f"{identity} holds an authority already", action=action)
    if (identity / "ca.pem").exists():
        authority = Authority.open(identity, passphrase=passphrase)
    else:
        authority = Authority.create(identity, site=site, passphrase=passphrase)
    credentials = _issue(hub, authority, url, hosts)
    text = mosquitto_configuration(
        port=port,
        credentials=credentials,
        access_list_path=identity / ACCESS_NAME,
        revoked_path=identity / "ca.crl",
    )
    return _write_broker(hub, url, text)


def renew(
    folder: Path | str, *, hosts: Sequence[str] = (), port: int | None = None, passphrase: str | None = None
) -> SecuredSite:
    """Issues new certificates for broker and hub; the authority stays. Of ``mosquitto.conf`` only the port changes.

    Args:
        folder: The hub's folder, after `secure`.
        hosts: As of `secure`; without any, those of the broker's present certificate.
        port: The broker's; without one, the present one.
        passphrase: Opens the authority's key, if it was made with one.

    Raises:
        InputNotFoundError: There is no ``hub.toml``, or the site is not secured.
        ConfigError: A host or port cannot be used.
        SignatureError: The passphrase doesn't open the authority's key.
    """
    hub = Path(folder).resolve()
    identity = hub / IDENTITY_NAME
    link = folder_config(hub).link
    try:
        text = (identity / BROKER_NAME).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        action = "Secure the site first: lineside hub secure --host NAME."
        raise InputNotFoundError(f"{identity / BROKER_NAME} is not there", action=action) from error
    hosts, port = hosts or _broker_hosts(identity), port or link.port
    url = _broker_url(hosts, port, link.site)
    authority = Authority.open(identity, passphrase=passphrase)
    _issue(hub, authority, url, hosts)
    return _write_broker(hub, url, re.sub(r"(?m)^listener \d+", f"listener {port}", text, count=1))


def _broker_url(hosts: Sequence[str], port: int, site: str) -> str:
    """Returns the hub's address of the broker.

    Raises:
        ConfigError: A host or the port cannot be used.
    """
    check_hosts(hosts)
    url = f"mqtts://{f'[{hosts[0]}]' if ':' in hosts[0] else hosts[0]}:{port}"
    LinkConfig(url=url, site=site, ca="ca.pem")
    return url


def _issue(hub: Path, authority: Authority, url: str, hosts: Sequence[str]) -> Credentials:
    """Issues the broker's and the hub's certificates, configures the hub with its own, and returns the broker's."""
    credentials = authority.broker(hosts)
    _write_link(hub, url, authority.hub())
    _write_access(hub)
    return credentials


def _write_broker(hub: Path, url: str, text: str) -> SecuredSite:
    path = hub / IDENTITY_NAME / BROKER_NAME
    write_atomic(path, text.encode())
    return SecuredSite(broker_configuration=path, hub_configuration=hub / CONFIG_NAME, url=url)


def _broker_hosts(identity: Path) -> list[str]:
    """Returns the hosts that the broker's present certificate names.

    Raises:
        InputNotFoundError: There is none.
    """
    path = identity / "issued" / BROKER / "cert.pem"
    try:
        certificate = read_certificate(path.read_bytes())
    except FileNotFoundError as error:
        raise InputNotFoundError(f"{path} is not there", action="Name the broker's hosts.") from error
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def _write_link(hub: Path, url: str, own: Credentials) -> None:
    """Points ``hub.toml`` at the broker; its other tables and keys stay, comments do not."""
    path = hub / CONFIG_NAME
    whole = decode_toml(path.read_bytes())
    kept = {name: value for name, value in whole["link"].items() if name not in ("username", "password_file")}
    files = {"ca": own.ca, "certificate": own.certificate, "key": own.key}
    relative = {name: str(file.relative_to(hub)) for name, file in files.items()}
    write_atomic(path, tomli_w.dumps({**whole, "link": {**kept, "url": url, **relative}}).encode())


def enroll(folder: Path | str, device: str, *, group: str, passphrase: str | None = None) -> Credentials:
    """Issues a device's certificate and enters the device into the access list.

    Args:
        folder: The hub's folder, after `secure`.
        passphrase: Opens the authority's key, if it was made with one.

    Raises:
        InputNotFoundError: There is no authority yet.
        SignatureError: The passphrase doesn't open the authority's key.
        ConfigError: A name cannot be used.
        RolloutError: There is no such group.
    """
    hub = Path(folder).resolve()
    authority = Authority.open(hub / IDENTITY_NAME, passphrase=passphrase)
    check_name(group, "group")
    Repository.open(hub).roles.check_group(group)
    credentials = authority.enroll(device, group=group)
    _write_access(hub)
    return credentials


def make_token(
    folder: Path | str, device: str, *, group: str, hours: float = TOKEN_HOURS, passphrase: str | None = None
) -> EnrolmentToken:
    """Makes a token for a device, with the broker's address and the TUF root.

    Args:
        folder: The hub's folder, after `secure`.
        passphrase: Opens the authority's key, if it was made with one.

    Raises:
        InputNotFoundError: There is no authority yet.
        SignatureError: The passphrase doesn't open the authority's key.
        ConfigError: A name cannot be used.
        RolloutError: There is no such group.
    """
    hub = Path(folder).resolve()
    config = folder_config(hub)
    authority = Authority.open(hub / IDENTITY_NAME, passphrase=passphrase)
    check_name(group, "group")
    repository = Repository.open(hub)
    repository.roles.check_group(group)
    token = authority.token(device, group=group, hours=hours)
    _write_access(hub)
    root = repository.root_bytes().decode()
    return msgspec.structs.replace(token, url=config.link.url, site=config.link.site, root=root)


def revoke(folder: Path | str, device: str, *, passphrase: str | None = None) -> int:
    """Revokes a device's certificates and tokens, and removes it from the access list.

    Args:
        passphrase: Opens the authority's key, if it was made with one.

    Returns:
        How many certificates were revoked.

    Raises:
        InputNotFoundError: There is no authority yet.
        SignatureError: The passphrase doesn't open the authority's key.
        ConfigError: There is no such device.
    """
    hub = Path(folder).resolve()
    authority = Authority.open(hub / IDENTITY_NAME, passphrase=passphrase)
    count = authority.revoke(device)
    _write_access(hub)
    return count


def reassign(folder: Path | str, device: str, *, group: str) -> Path:
    """Stores another group for an enrolled device and rewrites the access list; its certificate stays valid.

    Args:
        folder: The hub's folder, after `secure`.

    Returns:
        Path of the access list, which mosquitto reads on SIGHUP.

    Raises:
        ConfigError: The device is not enrolled.
    """
    hub = Path(folder).resolve()
    identity = hub / IDENTITY_NAME
    with folder_lock(identity):
        enrolled = enrolled_devices(identity)
        if device not in enrolled:
            expected = ", ".join(sorted(enrolled)) or "none yet"
            action = "Enrol it first: lineside hub enroll."
            raise ConfigError(f"device {device!r} is not enrolled", expected=expected, actual=device, action=action)
        write_atomic(identity / "enrolled.json", msgspec.json.encode({**enrolled, device: group}))
    return _write_access(hub)


def old_access_list(folder: Path | str) -> str | None:
    """Returns a warning if the broker's access list lacks a topic of this release.

    An older release wrote it; mosquitto then drops messages on the topic without an error.

    Returns:
        The missing right and a remedy; ``None`` if there is no list or nothing is missing.

    Raises:
        ConfigError: ``hub.toml`` cannot be read.
    """
    hub = Path(folder).resolve()
    path, identity = hub / IDENTITY_NAME / ACCESS_NAME, hub / IDENTITY_NAME
    if not path.is_file() or not (hub / CONFIG_NAME).is_file():
        return None
    site = folder_config(hub).link.site
    missing = missing_rights(path.read_text(encoding="utf-8"), site, enrolled_devices(identity), read_claims(identity))
    if not missing:
        return None
    user, right = missing[0]
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"{ACCESS_NAME} is older than this release: {user} lacks '{right}'{others}. "
        f"Write it again, `lineside hub acl --hub {hub} > {path}`, and send mosquitto SIGHUP"
    )


def _write_access(hub: Path) -> Path:
    """Writes the access list of all that is enrolled, and returns its path."""
    identity = hub / IDENTITY_NAME
    text = access_list(folder_config(hub).link.site, enrolled_devices(identity), read_claims(identity))
    write_atomic(identity / ACCESS_NAME, text.encode(), mode=0o600)  # mosquitto warns of a list others can read
    return identity / ACCESS_NAME
