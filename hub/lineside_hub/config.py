"""``hub.toml``: where the hub keeps its things and which broker it uses."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from lineside_link.config import LinkConfig
from lineside_runtime.errors import ConfigError, InputNotFoundError


class ResultsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where results go: the ``[results]`` table.

    Attributes:
        url: ``postgresql+psycopg://host/database``; empty for ``hub.db``. A password belongs into libpq's password
            file (``passfile=`` in the URL, or ``~/.pgpass``) and not here.
    """

    url: str = ""

    def __post_init__(self) -> None:
        if not self.url:
            return
        if not self.url.startswith("postgresql+psycopg://"):
            raise ConfigError("results.url", expected="postgresql+psycopg://…", actual=self.url.split("://")[0])
        if "password=" in self.url or urlsplit(self.url).password is not None:
            action = "Put it into libpq's password file and give its path: ?passfile=/etc/lineside/pgpass."
            raise ConfigError("results.url holds a password", action=action)


class HubConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of the hub.

    Attributes:
        folder: Holds the repository and the database; relative to the file's own folder.
        link: The broker and the site.
        renew_every_s: How often the timestamp is signed again; it expires after a day.
        results: Where results go.
    """

    folder: str
    link: LinkConfig
    renew_every_s: float = 3600.0
    results: ResultsConfig = ResultsConfig()

    def __post_init__(self) -> None:
        if not 1.0 <= self.renew_every_s <= 43200.0:
            raise ConfigError(
                "renew_every_s", expected="1 to 43200 (half a timestamp's life)", actual=self.renew_every_s
            )


def load_config(path: Path | str) -> HubConfig:
    """Reads ``hub.toml``.

    Args:
        path: The file.

    Returns:
        The configuration; ``folder`` is absolute.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: It is not TOML, or a key is unknown, missing, of a wrong type or out of range.
    """
    file = Path(path)
    try:
        config = msgspec.toml.decode(file.read_bytes(), type=HubConfig)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputNotFoundError(f"no configuration at {file}", action="Give the path of hub.toml.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    return msgspec.structs.replace(config, folder=str((file.parent / config.folder).resolve()))
