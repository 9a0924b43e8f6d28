"""Commands on a board over SSH, by asyncssh. Its host key is always checked.

A host key is trusted because it was read over the board's serial line, its fingerprint was given, ``known_hosts`` has
it, or a person confirmed it. The first of these that applies decides.

asyncssh and not paramiko: it reads OpenSSH's agent, keys, certificates, ``known_hosts`` and ``~/.ssh/config``, detects
a dead connection by keep-alives, and is typed. The callers are synchronous, so each call runs the loop to its end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shlex
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from lineside_boards.errors import BoardLinkError, HostKeyError, LoginError
from lineside_boards.provision.shell import Answer, Password, Shell
from lineside_runtime.errors import ConfigError, InputNotFoundError

T = TypeVar("T")

CONNECT_S, LOGIN_S = 60.0, 180.0
"""A person types a password, or an emulated board computes its keys, during the login."""

KEEPALIVE_S, KEEPALIVE_MAX = 10, 6
"""A connection that is silent for a minute is dead."""

BLOCK = 256 * 1024

Confirm = Callable[[str], bool]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Which host keys are trusted.

    Attributes:
        pinned: Host keys that were read over the board's serial line.
        fingerprint: Such as ``SHA256:…``, or empty.
        known_hosts: OpenSSH's file; it may be absent.
        confirm: Shows a text to a person and returns the answer; ``None`` without a terminal.
    """

    pinned: tuple[str, ...] = ()
    fingerprint: str = ""
    known_hosts: Path = Path("~/.ssh/known_hosts")
    confirm: Confirm | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """User, host and port of a board's SSH server."""

    user: str
    host: str
    port: int = 22

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads ``user@host``, ``user@host:port`` or ``user@[v6]:port``.

        Raises:
            ConfigError: The text is invalid.
        """
        match = re.fullmatch(r"([^@\s:]+)@(?:\[([^\]\s]+)\]|([^@\s:\[\]]+))(?::(\d{1,5}))?", text)
        if match is None or not 0 < int(match[4] or 22) < 65536:
            raise ConfigError("--ssh", expected="user@host or user@host:port", actual=text)
        return cls(match[1], match[2] or match[3], int(match[4] or 22))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + (f":{self.port}" if self.port != 22 else "")


class _Client(asyncssh.SSHClient):
    """Gives the password once, when the server asks for it."""

    def __init__(self, whose: str, password: Password) -> None:
        self._whose = whose
        self._password = password
        self._given: str | None = None

    def password_auth_requested(self) -> str | None:
        if self._given is not None:
            return None
        self._given = self._password(self._whose)
        return self._given

    def kbdint_auth_requested(self) -> str | None:
        return "" if self._given is None else None

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> Sequence[str] | None:
        if not prompts:
            return []
        given = self.password_auth_requested()
        return None if given is None else [given] * len(prompts)


class SshShell(Shell):
    """A connection made by `connect`; a context manager."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop, connection: asyncssh.SSHClientConnection):
        super().__init__(str(address), address.user)
        self._loop = loop
        self._connection = connection

    def __enter__(self) -> SshShell:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, script: str, data: bytes, timeout_s: float) -> Answer:
        return self._wait(self._exchange(script, [data], None), timeout_s)

    def pour(self, script: str, blocks: Iterable[bytes], progress: Callable[[int], None]) -> Answer:
        """Runs a script with blocks as its standard input, as fast as they are read.

        Args:
            progress: Called with the size of each block that was sent.

        Raises:
            BoardLinkError: The connection broke.
        """
        return self._wait(self._exchange(script, blocks, progress), None)

    async def _exchange(self, script: str, blocks: Iterable[bytes], progress: Callable[[int], None] | None) -> Answer:
        command = f"sh -c {shlex.quote(script)}"
        process = await self._connection.create_process(command, encoding=None, stderr=asyncssh.STDOUT)
        reader = asyncio.ensure_future(process.stdout.read())
        try:
            for block in blocks:
                process.stdin.write(block)
                await process.stdin.drain()
                if progress is not None:
                    progress(len(block))
            process.stdin.write_eof()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it ended before it read everything: its exit status says why
        said = await reader
        await process.wait_closed()
        if process.exit_status is None or process.exit_status < 0:
            raise BoardLinkError(f"{self.where}: the command was cut off", actual=script.splitlines()[-1][:60])
        return Answer(process.exit_status, said.decode(errors="replace"))

    def _wait(self, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, timeout_s))
        except asyncio.TimeoutError as error:
            raise BoardLinkError(f"{self.where}: no answer within {timeout_s:g} s") from error
        except (OSError, asyncssh.Error) as error:
            raise BoardLinkError(f"{self.where}: {_words(error)}") from error

    def close(self) -> None:
        """Closes the connection."""
        if self._loop.is_closed():
            return
        self._connection.abort() if self._connection.is_closed() else self._connection.close()
        try:
            self._loop.run_until_complete(asyncio.wait_for(self._connection.wait_closed(), CONNECT_S))
        except (OSError, asyncssh.Error, asyncio.TimeoutError):
            self._connection.abort()
        finally:
            _end(self._loop)


def connect(address: Address, *, trust: Trust, keys: Sequence[Path], password: Password) -> SshShell:
    """Connects and logs in.

    Args:
        keys: Private keys; if empty, those of ssh-agent and OpenSSH's default ones.
        password: Called for the passphrase of a key or the user's password, if needed.

    Raises:
        BoardLinkError: There is no answer.
        HostKeyError: The host key is unknown, or another one.
        LoginError: The board refuses the user.
        InputNotFoundError: The file of a key is missing.
    """
    own = [_private_key(path, password) for path in keys]
    loop = asyncio.new_event_loop()
    try:
        host_keys = loop.run_until_complete(_trusted(address, trust))
        connection = loop.run_until_complete(_connect(address, host_keys, own, password))
    except BaseException:
        _end(loop)
        raise
    return SshShell(address, loop, connection)


def fingerprint(public_key: str) -> str:
    """Returns the fingerprint of a public key's line, as ``ssh-keygen -l`` prints it."""
    return asyncssh.import_public_key(public_key).get_fingerprint()


def _end(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _private_key(path: Path, password: Password) -> asyncssh.SSHKey:
    try:
        try:
            return asyncssh.read_private_key(path)
        except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError):  # of the old and of the new format
            if b"PRIVATE KEY" not in path.read_bytes():
                raise
            return asyncssh.read_private_key(path, password(f"passphrase of {path}"))
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}") from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise LoginError(
            f"{path} can't be used: {error}", action="Give a private key, and its right passphrase."
        ) from error


async def _trusted(address: Address, trust: Trust) -> list[asyncssh.SSHKey]:
    if trust.pinned:
        return [asyncssh.import_public_key(line) for line in trust.pinned]
    if trust.fingerprint:
        return [await _named(address, trust.fingerprint)]
    known, revoked = _known(address, trust.known_hosts)
    if known:
        return known
    shown = await _shown(address)
    if shown in revoked:
        raise HostKeyError(f"{address}: {trust.known_hosts} calls its key revoked", actual=shown.get_fingerprint())
    text = f"{shown.get_algorithm()} key {shown.get_fingerprint()}"
    if trust.confirm is None or not trust.confirm(f"{address.host} is not known yet. It shows the {text}."):
        raise HostKeyError(
            f"{address}: its host key is not known",
            actual=shown.get_fingerprint(),
            action="Compare it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the board's own console, and "
            f"give --host-key {shown.get_fingerprint()}.",
        )
    _remember(address, shown, trust.known_hosts.expanduser())
    return [shown]


async def _named(address: Address, wanted: str) -> asyncssh.SSHKey:
    """Returns the host key with a fingerprint, which may be of any of the server's algorithms."""
    seen = []
    for algorithms in (("ssh-ed25519",), ("ecdsa-sha2-nistp256",), ("rsa-sha2-512", "rsa-sha2-256"), ()):
        try:
            key = await _shown(address, algorithms)
        except BoardLinkError:
            if not algorithms:
                raise
            continue
        if key.get_fingerprint() == wanted:
            return key
        seen.append(key.get_fingerprint())
    raise HostKeyError(
        f"{address} has another host key",
        expected=wanted,
        actual=", ".join(dict.fromkeys(seen)),
        action="This isn't the board, or somebody stands between. Nothing was sent to it.",
    )


def _known(address: Address, file: Path) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
    path = file.expanduser()
    if not path.is_file():
        return [], []
    try:
        found = asyncssh.match_known_hosts(str(path), address.host, "", address.port)
    except (OSError, ValueError, asyncssh.Error) as error:
        raise HostKeyError(f"{path} can't be read: {error}", action="Correct that file.") from error
    return list(found[0]), list(found[2])


async def _shown(address: Address, algorithms: Sequence[str] = ()) -> asyncssh.SSHKey:
    try:
        key = await asyncio.wait_for(
            asyncssh.get_server_host_key(address.host, address.port, server_host_key_algs=algorithms or ()), CONNECT_S
        )
    except (OSError, asyncio.TimeoutError, asyncssh.Error) as error:
        raise _unreachable(address, error) from error
    if key is None:
        raise BoardLinkError(f"{address}: the server shows no host key")
    return key


def _remember(address: Address, key: asyncssh.SSHKey, path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    host = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
    with path.open("ab") as file:
        file.write(f"{host} ".encode() + key.export_public_key().strip() + b"\n")


async def _connect(
    address: Address, host_keys: list[asyncssh.SSHKey], own: list[asyncssh.SSHKey], password: Password
) -> asyncssh.SSHClientConnection:
    whose = f"password of {address}"
    options: dict[str, Any] = {"client_keys": own} if own else {}
    try:
        return await asyncssh.connect(
            address.host,
            address.port,
            username=address.user,
            known_hosts=(host_keys, [], []),
            client_factory=lambda: _Client(whose, password),
            connect_timeout=LOGIN_S,
            login_timeout=LOGIN_S,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVE_MAX,
            **options,
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostKeyError(
            f"{address} has another host key than it should",
            expected=", ".join(key.get_fingerprint() for key in host_keys),
            action="This isn't the board, somebody stands between, or it was set up anew: then "
            f"`ssh-keygen -R {address.host}` forgets the old key. Nothing was sent to it.",
        ) from error
    except asyncssh.PermissionDenied as error:
        raise LoginError(f"{address} refuses the login: {error.reason}") from error
    except asyncssh.DisconnectError as error:
        if "authentication failures" in error.reason:
            raise LoginError(f"{address} refuses the login: {error.reason}") from error
        raise _unreachable(address, error) from error
    except (OSError, asyncio.TimeoutError, asyncssh.Error) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: Address, error: Exception) -> BoardLinkError:
    return BoardLinkError(
        f"{address} doesn't answer by SSH: {_words(error)}",
        action="Is it on, in this network, and does sshd run? `lineside board provision --serial` needs no network.",
    )


def _words(error: Exception) -> str:
    return (getattr(error, "reason", "") or str(error) or type(error).__name__).strip()
