"""Access control: callers need the token; without a token only this machine may call."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import socket
import stat
from pathlib import Path

from lineside_runtime.errors import ConfigError, InputNotFoundError, RequestError

TOKEN_MIN = 16
TOKEN_MAX = 4096
DISTINCT_MIN = 8
"""Different characters of a token: 32 random hexadecimal digits have 8 with a chance of 0.9999."""
_SCHEME = "bearer "
_HINT = "Write one with: (umask 077; openssl rand -hex 32 > FILE)"


class Access:
    """Decides whether a call may pass. The token itself is not kept, and stands in no log and no error."""

    def __init__(self, token: str | None = None) -> None:
        """Without a token every caller that uses a name of this machine is admitted."""
        self._digest = None if token is None else _digest(token)

    def check(self, authorization: str, host: str, origin: str = "") -> None:
        """Lets a call pass or not.

        Args:
            authorization: The ``Authorization`` header or gRPC metadata; empty if there was none.
            host: The HTTP ``Host`` header, or gRPC's authority.
            origin: The HTTP ``Origin`` header: the site whose page makes the call; empty from other programs.

        Raises:
            RequestError: No token or the wrong one (401); or none is needed here, but the call names another host than
                this machine, as a web page does that has rebound its name to the loopback address, or a page of
                another site makes it (403).
        """
        if self._digest is None:
            if not _names_loopback(host):
                raise RequestError(
                    "the server has no token and answers to names of this machine only",
                    status=403,
                    expected="localhost or a loopback address",
                    actual=host[:100],
                    action="Call it by localhost, or start it with --token-file and a --host.",
                )
            if origin and not _names_loopback(origin.partition("://")[2] or origin):
                raise RequestError(
                    "a page of another site called",
                    status=403,
                    expected="a page of this machine, or a program",
                    actual=origin[:100],
                    action="Start the server with --token-file and send the token.",
                )
            return
        given = authorization[len(_SCHEME) :].strip() if authorization.lower().startswith(_SCHEME) else ""
        if not hmac.compare_digest(_digest(given), self._digest):
            raise RequestError(
                "the token is missing or wrong", status=401, action="Send the header: Authorization: Bearer TOKEN"
            )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _names_loopback(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    if name.lower() == "localhost" or not name:  # HTTP/1.0 needs no Host, and a browser never leaves it out
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """Reads a token file: one line.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: Everybody on this machine can read it, or it holds no usable token.
    """
    if not path.is_file():
        raise InputNotFoundError(f"no token file at {path}", action=_HINT)
    if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
        raise ConfigError(
            f"the token file {path}",
            expected="a file that others can't read",
            actual=f"mode {stat.S_IMODE(path.stat().st_mode):04o}",
            action=f"Run: chmod 600 {path}",
        )
    if not os.access(path, os.R_OK) or path.stat().st_size > TOKEN_MAX:
        raise ConfigError(
            f"the token file {path}", expected=f"a readable file of at most {TOKEN_MAX} bytes", action=_HINT
        )
    token = path.read_text(errors="replace").strip()
    usable = token.isascii() and token.isprintable() and " " not in token
    if len(token) < TOKEN_MIN or len(set(token)) < DISTINCT_MIN or not usable:
        raise ConfigError(
            f"the token file {path}",
            expected=f"one line of at least {TOKEN_MIN} ASCII characters, {DISTINCT_MIN} of them different, no spaces",
            action=_HINT,
        )
    return token


def resolve(host: str, token: str | None) -> str:
    """Returns the address to listen on.

    Raises:
        ConfigError: The name is unknown, or others could reach the address and there is no token.
    """
    try:
        address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise ConfigError("--host", expected="a name or address of this machine", actual=f"{host}: {error}") from error
    if token is None and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise ConfigError(
            f"--host {host} lets other machines in, and there is no token",
            expected="a loopback address such as 127.0.0.1, or --token-file",
            action=f"Give --token-file FILE. {_HINT}",
        )
    return address
