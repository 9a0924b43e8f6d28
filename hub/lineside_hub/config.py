"""Configuration of the hub, ``hub.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from lineside_hub.alarms.config import AlarmsConfig
from lineside_link.config import LinkConfig, is_loopback
from lineside_link.maintenance_window import check_window
from lineside_link.messages import MaintenanceWindow
from lineside_runtime.config_errors import config_error, naming_file
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError, InputNotFoundError

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

CONFIG_NAME = "hub.toml"
IDENTITY_NAME = "identity"
"""Folder of the certificate authority within the hub's folder."""

_FILE_KEYS = (
    *("ca", "certificate", "key", "password_file"),
    *("tls_certificate", "tls_key", "client_secret_file", "secret_file"),
)
"""Keys of all tables whose value is the path of a file."""


class ResultsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Storage of results: the ``[results]`` table.

    Attributes:
        url: ``postgresql+psycopg://host/database``; empty for ``hub.db``. A password belongs into libpq's password
            file (``passfile=`` in the URL, or ``~/.pgpass``) and not here.
        device_max_bytes: Results that one device may send in all; beyond, they are refused and stay on the device.
            0 for no limit.
        device_max_interaction_bytes: As ``device_max_bytes``, for what a device recommended and what was chosen there.
    """

    url: str = ""
    device_max_bytes: Annotated[int, msgspec.Meta(ge=0)] = 50_000_000_000
    device_max_interaction_bytes: Annotated[int, msgspec.Meta(ge=0)] = 5_000_000_000

    def __post_init__(self) -> None:
        if not self.url:
            return
        if not self.url.startswith("postgresql+psycopg://"):
            raise ConfigError("results.url", expected="postgresql+psycopg://…", actual=self.url.split("://")[0])
        if "password=" in self.url or urlsplit(self.url).password is not None:
            action = "Put it into libpq's password file and give its path: ?passfile=/etc/lineside/pgpass."
            raise ConfigError("results.url holds a password", action=action)


class HubTransferConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Transfer of bundles to devices: the ``[transfer]`` table.

    Attributes:
        rate_bytes_s: Rate to all devices together, in bytes a second; 0 for no limit.
        device_rate_bytes_s: Rate to one device, in bytes a second; 0 for no limit.
        multicast_from: A target is multicast if so many devices request it within `multicast_gather_s`; 0 for never.
        multicast_gather_s: How long the first of these devices waits for others.
        multicast_rate_bytes_s: Rate of a multicast, in bytes a second. Devices with a slower link, also because of
            ``device_rate_bytes_s``, take no part.
    """

    rate_bytes_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    device_rate_bytes_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    multicast_from: Annotated[int, msgspec.Meta(ge=0)] = 3
    multicast_gather_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 1.0
    multicast_rate_bytes_s: Annotated[float, msgspec.Meta(ge=4096)] = 2_000_000.0


class FramesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Storage of frames that devices upload: the ``[frames]`` table.

    Attributes:
        take: Whether frames are accepted; if not, devices are told to wait.
        url: fsspec URL of their content, without a password; empty for ``frames`` in the hub's folder.
        max_bytes: Of all frames; beyond, the oldest frames of the device with most bytes are deleted.
        device_max_bytes: Of one device's frames; beyond, its oldest are deleted.
        max_age_days: Frames are deleted so long after their upload; 0.1 % of all a minute, so that a clock that is
            ahead deletes few.
        frame_max_bytes: Largest size of one frame in bytes; larger ones are refused.
        rate_bytes_s: Rate of all uploads together, in bytes a second; 0 for no limit.
        at_once: How many devices may upload at the same time; the others wait.
        keep_free_bytes: Disk space reserved for results; with less free, devices are told to wait.
    """

    take: bool = True
    url: str = ""
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 20_000_000_000
    device_max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 20_000_000_000
    max_age_days: Annotated[float, msgspec.Meta(gt=0)] = 90.0
    frame_max_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1 << 28)] = 32 << 20
    rate_bytes_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    at_once: Annotated[int, msgspec.Meta(ge=1)] = 32
    keep_free_bytes: Annotated[int, msgspec.Meta(ge=0)] = 500_000_000


class OidcConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sign-in at the dashboard by an identity provider with OpenID Connect: the ``[web.oidc]`` table.

    Attributes:
        issuer: Its issuer identifier, ``https://…``, exactly as its discovery document has it; ``http://`` only on
            loopback.
        client_id: Of the dashboard, as registered at the provider.
        client_secret_file: File with the client's secret in its first line; relative to the file's own folder. Empty
            for a public client.
        roles: Role for each group: ``"plant-quality" = "operate"``. Who is in several groups gets the highest role;
            who is in none cannot sign in.
        roles_claim: Claim with the groups, in the ID token or at the userinfo endpoint; ``a.b`` is ``b`` within ``a``.
        name_claim: Claim with the name that the dashboard and its audit log show.
        scopes: What is asked for.
        email_domains: Only people with a verified e-mail address of one of these domains; empty for all.
        required_group: Only members of this group, beside one in ``roles``; empty for none.
        label: Name of the provider on the sign-in page; its host if empty.
        url: Address by which browsers reach the dashboard; needed only behind a proxy that ends TLS. By default that
            of the request.
        ca: File with the certificates to trust; the system's if empty.
    """

    issuer: str
    client_id: str
    client_secret_file: str = ""
    roles: dict[str, Literal["watch", "operate", "administer"]]
    roles_claim: str = "groups"
    name_claim: str = "preferred_username"
    scopes: tuple[str, ...] = ("openid", "profile", "email", "groups")
    email_domains: tuple[str, ...] = ()
    required_group: str = ""
    label: str = ""
    url: str = ""
    ca: str = ""

    def __post_init__(self) -> None:
        check_provider_url(self.issuer, "web.oidc.issuer")
        if self.url:
            check_provider_url(self.url, "web.oidc.url")
            if urlsplit(self.url).path.strip("/"):
                raise ConfigError("web.oidc.url", expected="an address without a path", actual=self.url)
        if not self.client_id or not self.roles:
            raise ConfigError("web.oidc", expected="client_id, and one group or more in roles", actual="empty")
        if "openid" not in self.scopes:
            raise ConfigError("web.oidc.scopes", expected='"openid" and others', actual=" ".join(self.scopes))
        if any("@" in domain for domain in self.email_domains):
            raise ConfigError("web.oidc.email_domains", expected="domains such as plant.example", actual="an address")


def check_provider_url(url: str, what: str) -> None:
    """Checks that nobody else can read or change what is sent to an address.

    Args:
        what: Key or field, for the message.

    Raises:
        ConfigError: It is no ``https`` URL, and none of this machine's loopback.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    if not host or not is_safe or parts.username or parts.query or parts.fragment:
        raise ConfigError(what, expected="https://…, or http://… on loopback", actual=url[:200])


class WebConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fleet dashboard, a web page of the hub: the ``[web]`` table, which alone, without a key, shows it on this
    machine.

    Attributes:
        port: TCP port; 0 for any free one.
        address: Address of the network interface to listen on. Other machines reach it only with ``tls_certificate``
            and ``tls_key``.
        names: Names by which browsers reach it, such as ``hub.plant.example``; addresses of this machine need no
            entry. Requests for another name are refused.
        tls_certificate: Certificate chain in PEM; relative to the file's own folder.
        tls_key: Its private key in PEM.
        oidc: Sign-in by an identity provider; ``None`` for local accounts only.
    """

    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8090
    address: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    tls_certificate: str = ""
    tls_key: str = ""
    oidc: OidcConfig | None = None


class WindowConfig(MaintenanceWindow, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ``[window]`` table: the fields of the message; an unknown field is an error here."""


class HubConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of the hub.

    Attributes:
        folder: Holds the repository and the database; relative to the file's own folder.
        link: The broker and the site.
        renew_every_s: How often the timestamp is signed again; it expires after a day.
        results: Storage of results.
        transfer: Transfer of bundles to devices.
        frames: Storage of frames.
        window: When devices may activate what they should run; ``None`` for at once.
        web: The fleet dashboard; ``None`` for none.
        data_terms: What ``lineside push`` does with a bundle whose manifest names training data without a licence or
            for research only: ``warn``, ``accept``, or ``refuse`` it, and then also one that states no terms.
        alarms: Rules on figures of the fleet, and who is told.
    """

    folder: str
    link: LinkConfig
    renew_every_s: float = 3600.0
    results: ResultsConfig = ResultsConfig()
    transfer: HubTransferConfig = HubTransferConfig()
    frames: FramesConfig = FramesConfig()
    window: WindowConfig | None = None
    data_terms: Literal["warn", "refuse", "accept"] = "warn"
    alarms: AlarmsConfig = AlarmsConfig()
    web: WebConfig | None = None

    def __post_init__(self) -> None:
        if self.window is not None:
            check_window(self.window)
        if not 1.0 <= self.renew_every_s <= 43200.0:
            raise ConfigError(
                "renew_every_s", expected="1 to 43200 (half a timestamp's life)", actual=self.renew_every_s
            )


def read_toml(file: Path, kind: type[T], name: str, *, action: str | None = None) -> T:
    """Reads a configuration file.

    Args:
        action: What to do about a wrong key; by default `lineside config schema` is named.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: It is not TOML, or a key is unknown, missing, of a wrong type or out of range.
    """
    try:
        data = file.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputNotFoundError(f"no configuration at {file}", action=f"Give the path of {name}.") from error
    with naming_file(str(file)):
        try:
            return decode_toml(data, type=kind)
        except msgspec.ValidationError as error:
            raise config_error(error, kind, decode_toml(data), action=action) from error
        except msgspec.DecodeError as error:
            raise ConfigError(str(error)) from error


def load_config(path: Path | str) -> HubConfig:
    """Reads ``hub.toml``; relative paths in it start at its own folder, and those of the result are absolute.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: It is not TOML, or a key is unknown, missing, of a wrong type or out of range.
    """
    file = Path(path)
    config = read_toml(file, HubConfig, CONFIG_NAME)
    web = config.web and _with_files(file, config.web)
    if web is not None and web.oidc is not None:
        web = msgspec.structs.replace(web, oidc=_with_files(file, web.oidc))
    email = config.alarms.email and _with_files(file, config.alarms.email)
    webhook = tuple(_with_files(file, hook) for hook in config.alarms.webhook)
    return msgspec.structs.replace(
        config,
        folder=_beside(file, config.folder),
        link=_with_files(file, config.link),
        alarms=msgspec.structs.replace(config.alarms, email=email, webhook=webhook),
        web=web,
    )


def named_files(config: HubConfig) -> list[Path]:
    """Returns the files that a configuration from `load_config` names: certificates, keys and secrets."""
    tables: list[msgspec.Struct | None] = [config.link, config.web, config.web and config.web.oidc, config.alarms.email]
    named = [getattr(table, key, None) for table in (*tables, *config.alarms.webhook) for key in _FILE_KEYS]
    return [Path(path) for path in named if path]


def _with_files(file: Path, table: S) -> S:
    """Returns a table whose paths of files are absolute."""
    paths = {key: _beside(file, path) for key in _FILE_KEYS if (path := getattr(table, key, None))}
    return msgspec.structs.replace(table, **paths)


def _beside(file: Path, path: str) -> str:
    return str((file.parent / path).resolve()) if path else ""


def folder_config(folder: Path | str) -> HubConfig:
    """Reads ``hub.toml`` of a hub's folder; arguments and errors as for `load_config`."""
    path = Path(folder) / CONFIG_NAME
    if not path.is_file():
        action = "Give the folder that `lineside hub init` made."
        raise InputNotFoundError(f"{folder} is no folder of a hub: {CONFIG_NAME} is missing", action=action)
    return load_config(path)


def folder_config_or_default(folder: Path | str) -> HubConfig:
    """Reads ``hub.toml`` of a folder; without one, as where only the library is used, everything is in the folder."""
    if (Path(folder) / CONFIG_NAME).is_file():
        return folder_config(folder)
    return HubConfig(folder=str(folder), link=LinkConfig(url="mqtt://127.0.0.1", site="none"))
