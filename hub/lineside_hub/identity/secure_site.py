"""Mutual TLS of a site: authority, certificates of broker and hub, and an identity for each device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import msgspec
import tomli_w

from lineside_hub.config import CONFIG_NAME, IDENTITY_NAME, folder_config
from lineside_hub.folder_lock import folder_lock
from lineside_hub.identity.access_lists import access_list, missing_rights, mosquitto_configuration
from lineside_hub.identity.authority import (
    TOKEN_HOURS,
    Authority,
    Credentials,
    EnrolmentToken,
    enrolled_devices,
    read_claims,
)
from lineside_hub.repository.repository import Repository
from lineside_link.config import LinkConfig
from lineside_runtime.errors import ConfigError
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


def secure(folder: Path | str, *, hosts: Sequence[str], port: int, passphrase: str | None = None) -> SecuredSite:
    """Makes the authority, the broker's and the hub's certificates, and mosquitto's files.

    Args:
        folder: The hub's folder, with its ``hub.toml``.
        hosts: Names and addresses under which the broker is reached; the hub uses the first.
        passphrase: Encrypts the authority's key, if given.

    Raises:
        InputNotFoundError: There is no ``hub.toml``.
        ConfigError: There is an authority already, or a host or name cannot be used.
    """
    hub = Path(folder).resolve()
    config = folder_config(hub)
    authority = Authority.create(hub / IDENTITY_NAME, site=config.link.site, passphrase=passphrase)
    broker_file = authority.folder / BROKER_NAME
    text = mosquitto_configuration(
        port=port,
        credentials=authority.broker(hosts),
        access_list_path=authority.folder / ACCESS_NAME,
        revoked_path=authority.folder / "ca.crl",
    )
    _write_access(hub)
    write_atomic(broker_file, text.encode())
    own = authority.hub()
    link = LinkConfig(
        url=f"mqtts://{hosts[0]}:{port}",
        site=config.link.site,
        ca=str(own.ca),
        certificate=str(own.certificate),
        key=str(own.key),
    )
    settings = {name: value for name, value in msgspec.structs.asdict(link).items() if value is not None}
    whole = {"folder": ".", "renew_every_s": config.renew_every_s, "link": settings}
    write_atomic(hub / CONFIG_NAME, tomli_w.dumps(whole).encode())
    return SecuredSite(broker_configuration=broker_file, hub_configuration=hub / CONFIG_NAME, url=link.url)


def enroll(folder: Path | str, device: str, *, group: str, passphrase: str | None = None) -> Credentials:
    """Issues a device's certificate and enters the device into the access list.

    Args:
        folder: The hub's folder, after `secure`.
        passphrase: Opens the authority's key, if it was made with one.

    Raises:
        InputNotFoundError: There is no authority yet.
        SignatureError: The passphrase doesn't open the authority's key.
        ConfigError: A name cannot be used.
    """
    hub = Path(folder).resolve()
    authority = Authority.open(hub / IDENTITY_NAME, passphrase=passphrase)
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
    """
    hub = Path(folder).resolve()
    config = folder_config(hub)
    authority = Authority.open(hub / IDENTITY_NAME, passphrase=passphrase)
    token = authority.token(device, group=group, hours=hours)
    _write_access(hub)
    root = Repository.open(hub).root_bytes().decode()
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
            action = "Enrol it first: lineside hub enroll."
            raise ConfigError(f"device {device!r} is not enrolled", actual=", ".join(sorted(enrolled)), action=action)
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
