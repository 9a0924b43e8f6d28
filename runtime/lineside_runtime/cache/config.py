"""Configuration of the result cache."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from threading import TIMEOUT_MAX

import msgspec

from lineside_runtime.errors import ConfigError

MIB = 1 << 20

SQLITE_BYTES_MIN = MIB
"""Below this, the pages that hold SQLite's own trees are most of the file."""

VALUE_BYTES_MAX = 16 * MIB
"""A larger result is not kept: it would push out hundreds of others."""

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


class CacheConfig(msgspec.Struct, frozen=True):
    """Where results are cached. Only a bit-for-bit identical input is answered from the cache.

    Attributes:
        memory_bytes: Of host memory that results may take, with all that belongs to them; 0 for none.
        device_bytes: Of the device's own memory, where an engine can keep results there; 0 for none.
        ttl_s: After so many seconds a result is forgotten; ``None`` keeps it until the room is needed.
        sqlite: File that the processes of this device share; ``None`` for none. Its folder is made if need be.
        sqlite_bytes: Size that this file never passes; its write-ahead log comes on top, some 4 MiB.
        redis: Addresses (``redis://``, ``rediss://`` with TLS, ``unix://``) of one server, or of some nodes of one
            cluster. Empty for none. Whoever can write there can forge results: use a password and TLS.
        redis_timeout_s: How long a look-up waits for the server's next bytes. An outage delays a call by this, once.
    """

    memory_bytes: int = 64 * MIB
    device_bytes: int = 0
    ttl_s: float | None = None
    sqlite: Path | None = None
    sqlite_bytes: int = 256 * MIB
    redis: tuple[str, ...] = ()
    redis_timeout_s: float = 0.02

    def __post_init__(self) -> None:
        """Checks every key.

        Raises:
            ConfigError: A key has a wrong type or is out of its range.
        """
        _check_whole("memory_bytes", self.memory_bytes, 0)
        _check_whole("device_bytes", self.device_bytes, 0)
        _check_whole("sqlite_bytes", self.sqlite_bytes, SQLITE_BYTES_MIN)
        if self.ttl_s is not None:
            _check_above_zero("ttl_s", self.ttl_s, "None or ")
        _check_above_zero("redis_timeout_s", self.redis_timeout_s)
        if self.sqlite is not None:
            msgspec.structs.force_setattr(self, "sqlite", _path(self.sqlite))
        msgspec.structs.force_setattr(self, "redis", _addresses(self.redis))

    def __repr__(self) -> str:
        """Shows all but ``redis``, in which a password may stand."""
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name != "redis")
        return f"{type(self).__name__}({', '.join(shown)})"


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"cache.{name}", expected=f"a whole number of bytes, at least {least}", actual=repr(value))


def _check_above_zero(name: str, value: object, also: str = "") -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= TIMEOUT_MAX:
        raise ConfigError(f"cache.{name}", expected=f"{also}a number of seconds above 0", actual=repr(value))


def _path(value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ConfigError("cache.sqlite", expected="None or a file's path", actual=repr(value))
    return Path(value)


def _addresses(value: object) -> tuple[str, ...]:
    addresses = (value,) if isinstance(value, str) else value
    if isinstance(addresses, Iterable):
        found = tuple(addresses)
        if all(isinstance(address, str) and address.startswith(REDIS_SCHEMES) for address in found):
            return found
    # the value isn't shown: a password may stand in it
    raise ConfigError("cache.redis", expected=f"addresses that begin with {', '.join(REDIS_SCHEMES)}")
