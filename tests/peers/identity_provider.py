"""Canaille, an identity provider, as a child process on a free loopback port: OpenID Connect as its users have it.

It has an environment of its own: its wheel brings a package ``tests``, which would hide ours. Its people, groups and
clients are in its memory; a restart reads them again, with other keys if that is asked for.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.peers.environments import environment
from tests.peers.processes import ChildProcess
from tests.peers.waiting import free_port

PACKAGES = ("canaille[front,oidc]==0.3.6",)

CLIENT, SECRET = "dashboard", "a secret of the dashboard"

PASSWORD = "a password at the provider"


class Person(msgspec.Struct, frozen=True):
    """Somebody who can sign in at the provider."""

    name: str
    email: str
    groups: tuple[str, ...] = ()


class CanailleSetup(msgspec.Struct, kw_only=True):
    """What the child process, ``canaille_server.py``, is given.

    Attributes:
        origin: Of the dashboard.
        active: Private keys in PEM; the first one signs.
        inactive: Further ones, whose tokens are still good.
    """

    port: int
    origin: str
    people: tuple[Person, ...]
    active: list[str] = []
    inactive: list[str] = []
    client: str = CLIENT
    secret: str = SECRET
    password: str = PASSWORD


class IdentityProviderPeer:
    """The provider.

    Args:
        folder: For its log and its setup.
    """

    def __init__(self, folder: Path, people: Sequence[Person]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._setup_path = folder / "setup.json"
        python = environment("canaille", PACKAGES, sees_ours=True)
        server: list[str | Path] = [python, "-P", Path(__file__).with_name("canaille_server.py"), self._setup_path]
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = ChildProcess(server, folder / "canaille.log", environment=variables, cwd=folder)
        self.setup = CanailleSetup(port=free_port(), origin="", people=tuple(people))
        self.issuer = f"http://127.0.0.1:{self.setup.port}"
        self.rotate()

    def rotate(self) -> None:
        """Makes a new signing key; the old ones stay known. Counts from the next start."""
        key = rsa.generate_private_key(65537, 2048)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.setup.inactive, self.setup.active = (
            [*self.setup.active, *self.setup.inactive],
            [key.private_bytes(*form).decode()],
        )

    def start(self, origin: str) -> None:
        """Starts it.

        Args:
            origin: Address of the dashboard, which is its client `CLIENT`.
        """
        self.setup.origin = origin
        self._setup_path.write_bytes(msgspec.json.encode(self.setup))
        self._process.start()
        self._process.wait_for(self._answers, what="the identity provider")

    def stop(self) -> None:
        self._process.kill()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.issuer}/.well-known/openid-configuration", timeout=60) as answer:
                return bool(json.load(answer)["issuer"] == self.issuer)
        except OSError:
            return False
