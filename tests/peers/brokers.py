"""Brokers as child processes: started, stopped, killed and restarted on one port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Container, Sequence
from pathlib import Path

from lineside_hub.identity.access_lists import access_list, mosquitto_configuration
from lineside_hub.identity.authority import HUB_NAME, Authority, Credentials, read_claims
from lineside_hub.simulate.processes import listening
from lineside_link.config import LinkConfig
from tests.peers.processes import ChildProcess
from tests.peers.programs import find_program
from tests.peers.waiting import free_port


def find_mosquitto() -> str:
    """Returns mosquitto's path, or leaves the test out."""
    return find_program("mosquitto", "mosquitto")


class Broker(ChildProcess):
    """A broker on a free loopback port that keeps nothing over a restart. Subclasses say how it is started."""

    scheme = "mqtt"

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        super().__init__([], folder / "broker.log")
        self.folder = folder
        self.port = port or free_port()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def config(self, client_id: str = "", *, port: int | None = None, site: str = "t0") -> LinkConfig:
        """A client's configuration that reconnects fast; ``port`` is a proxy's in front of the broker."""
        url = f"{self.scheme}://127.0.0.1:{port or self.port}"
        return LinkConfig(url, site, reconnect_min_s=0.05, reconnect_max_s=0.5)

    def _command(self) -> Sequence[str]:
        raise AssertionError("a subclass says how its broker is started")

    def start(self, command: Sequence[str | Path] | None = None) -> None:
        super().start(command or self._command())
        self.wait_for(self._answers, what=f"broker on port {self.port}")

    def _answers(self) -> bool:
        return listening(self.port)


class Mosquitto(Broker):
    """Debian's broker; anybody may connect."""

    def __init__(self, folder: Path, *, program: str, port: int | None = None) -> None:
        super().__init__(folder, port=port)
        self._program = program

    def _text(self) -> str:
        return (
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "set_tcp_nodelay true\nmax_queued_messages 2000\n"
        )

    def _command(self) -> Sequence[str]:
        configuration = self.folder / "mosquitto.conf"
        text = self._text() + "log_type all\n"
        if os.geteuid() == 0 and not text.startswith("user "):
            text += "user root\n"  # it would become a user that cannot read the test's folder
        configuration.write_text(text)
        return [self._program, "-c", str(configuration)]

    def _answers(self) -> bool:
        # It listens before it handles signals, and a SIGHUP in between would end it; when it says that, it does both.
        return super()._answers() and " running" in self.said


class PasswordMosquitto(Mosquitto):
    """A broker that asks for a name and a password: ``cam-1`` and ``right``."""

    def _text(self) -> str:
        passwords = self.folder / "passwords"
        passwords.write_text("cam-1:right\n")
        passwords.chmod(0o600)
        subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
        return f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"


class SecureMosquitto(Mosquitto):
    """Mutual TLS and the hub's own access list: the certificate's CN is the device's name.

    `enroll` admits a device; ``lineside-hub`` is the hub.
    """

    scheme = "mqtts"

    def __init__(
        self, folder: Path, *, program: str, port: int | None = None, site: str = "t0", host: str = "127.0.0.1"
    ) -> None:
        super().__init__(folder, program=program, port=port)
        self.site = site
        self.authority = Authority.create(folder / "ca", site=site)
        self._credentials = self.authority.broker(["localhost", host])
        self._access = folder / "acl"
        self._left_out: Container[str] = ()
        self._write_access()

    def _write_access(self) -> None:
        devices = {name: group for name, group in self.authority.devices().items() if name not in self._left_out}
        self._access.write_text(access_list(self.site, devices, read_claims(self.authority.folder)))
        self._access.chmod(0o600)

    def reload(self, *, without: Container[str] = ()) -> None:
        """Writes the access list, and has the broker read it and what is revoked again.

        Args:
            without: Devices that are left out.
        """
        self._left_out = without
        self._write_access()
        if self.alive:
            self.signal(signal.SIGHUP)

    def enroll(self, device: str, *, group: str = "line") -> Credentials:
        """Issues a certificate and has the broker read its access list again."""
        credentials = self.authority.enroll(device, group=group)
        self.reload()
        return credentials

    def config(self, client_id: str = HUB_NAME, *, port: int | None = None, site: str = "t0") -> LinkConfig:
        credentials = self.authority.hub() if client_id == HUB_NAME else self.enroll(client_id)
        return self.config_with(credentials, port=port, site=site)

    def config_with(self, credentials: Credentials, *, port: int | None = None, site: str = "t0") -> LinkConfig:
        """A configuration with given certificates, such as another authority's."""
        return LinkConfig(
            f"{self.scheme}://127.0.0.1:{port or self.port}",
            site,
            ca=str(credentials.ca),
            certificate=str(credentials.certificate),
            key=str(credentials.key),
            reconnect_min_s=0.05,
            reconnect_max_s=0.5,
        )

    def _text(self) -> str:
        return mosquitto_configuration(
            port=self.port,
            credentials=self._credentials,
            access_list_path=self._access,
            revoked_path=self.authority.folder / "ca.crl",
            address="127.0.0.1",
        )


class EmbeddedBroker(Broker):
    """The broker of ``lineside demo``: amqtt, in its own process."""

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-c", f"from lineside_hub.broker import run_broker; run_broker(port={self.port})"]


_REFUSING = """
import asyncio, pathlib, sys
from amqtt.broker import Broker
from amqtt.plugins.topic_checking import TopicTabooPlugin

class Taboo(TopicTabooPlugin):
    async def topic_filtering(self, **how):
        return pathlib.Path(sys.argv[2]).exists() or await super().topic_filtering(**how)

async def serve(port):
    plugins = {
        "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
        "__main__.Taboo": {},
    }
    listener = {"type": "tcp", "bind": f"127.0.0.1:{port}"}
    await Broker({"listeners": {"default": listener}, "plugins": plugins}).start()
    await asyncio.Event().wait()

asyncio.run(serve(int(sys.argv[1])))
"""


class RefusingBroker(Broker):
    """Answers 0x80 to a subscription to ``prohibited``; mosquitto's access list accepts it and delivers nothing."""

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-c", _REFUSING, str(self.port), str(self._allowed)]

    @property
    def _allowed(self) -> Path:
        return self.folder / "allowed"

    def allow(self) -> None:
        """Takes every subscription from now on."""
        self._allowed.touch()
