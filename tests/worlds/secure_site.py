"""A broker with mutual TLS and a hub, made and run by the commands that an integrator gives."""

from __future__ import annotations

import contextlib
import datetime
import io
import re
import signal
import subprocess
import sys
import types
import unittest.mock
from collections.abc import Iterator, Sequence
from pathlib import Path

from lineside.cli import main
from lineside_hub.identity import authority
from lineside_hub.identity.authority import enrolled_devices
from lineside_hub.simulate.processes import listening
from lineside_link.config import LinkConfig
from tests.peers.brokers import find_mosquitto
from tests.peers.processes import ChildProcess
from tests.peers.waiting import free_port


def lineside(*arguments: str | Path) -> str:
    """Runs a command as a user does; returns what it printed."""
    done = subprocess.run([sys.executable, "-m", "lineside", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"lineside {arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_here(*arguments: object) -> str:
    """Runs a command in this process, which a process of its own takes half a second for; returns what it printed."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        assert main([str(each) for each in arguments]) == 0, said.getvalue()
    return out.getvalue()


@contextlib.contextmanager
def freeze_authority(*, days: float) -> Iterator[None]:
    """Certificates are issued as of so many days from now."""
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)

    clock = types.SimpleNamespace(now=lambda _zone: then)
    names = {"datetime": clock, "timedelta": datetime.timedelta, "timezone": datetime.timezone}
    with unittest.mock.patch.object(authority, "datetime", types.SimpleNamespace(**names)):
        yield


def make_secure_hub(folder: Path, *, group: str, host: str) -> None:
    """Makes a hub with an authority, for a broker at a host that nobody starts.

    Args:
        folder: The hub's; made here.
        group: Of its repository.
        host: In the broker's certificate, and in the configurations of devices.
    """
    assert main(["hub", "init", str(folder), "--site", "plant-1", "--group", group]) == 0
    assert main(["hub", "secure", "--hub", str(folder), "--host", host]) == 0


class SecureSite:
    """Nothing is started.

    Args:
        folder: For its files; what is there of an earlier site goes on.
        groups: Of the hub's repository.
        hosts: Names and addresses of the broker in its certificate.
        name: Of the site.
    """

    def __init__(
        self, folder: Path, *, groups: Sequence[str], hosts: Sequence[str] = ("127.0.0.1",), name: str = "plant-1"
    ) -> None:
        self.folder = folder / "hub"
        self.name = name
        config = self.folder / "hub.toml"
        if config.exists():
            url = re.search(r'url = "mqtts://[^:]+:(\d+)"', config.read_text())
            assert url, "the hub of an earlier site has no broker"
            self.port = int(url[1])
        else:
            self.port = free_port()
            run_here("hub", "init", self.folder, "--site", name, *_each("--group", groups))
            run_here("hub", "secure", "--hub", self.folder, *_each("--host", hosts), "--port", self.port)
        mosquitto = [find_mosquitto(), "-c", str(self.identity / "mosquitto.conf")]
        self.broker = ChildProcess(mosquitto, folder / "broker.log")
        run = [sys.executable, "-m", "lineside", "hub", "run", "--config", str(config)]
        self.hub = ChildProcess(run, folder / "hub.log")

    @property
    def identity(self) -> Path:
        """Folder of the certificates, and of the broker's configuration."""
        return self.folder / "identity"

    def start_broker(self) -> None:
        self.broker.start()
        # It listens before it handles signals, and a SIGHUP in between would end it; when it says that, it does both.
        self.broker.wait_for(lambda: " running" in self.broker.said and listening(self.port), what="mosquitto")

    def start_hub(self) -> None:
        """Starts the hub, and has the broker read who is enrolled."""
        self.let_in()
        self.hub.start()

    def let_in(self) -> None:
        """Has the broker read who is enrolled."""
        self.broker.signal(signal.SIGHUP)

    def enrolled(self, device: str) -> bool:
        """Whether the broker would let a device in, if it read its list again."""
        listed = f"user {device}\n" in (self.identity / "mosquitto.acl").read_text()
        return listed and device in enrolled_devices(self.identity)

    def link(self, name: str) -> LinkConfig:
        """Returns the configuration of a client whose certificate was issued here, such as an enrolled device."""
        issued = self.identity / "issued" / name
        return LinkConfig(
            f"mqtts://127.0.0.1:{self.port}",
            self.name,
            ca=str(issued / "ca.pem"),
            certificate=str(issued / "cert.pem"),
            key=str(issued / "key.pem"),
        )

    def stop(self) -> None:
        """Ends both."""
        self.hub.stop()
        self.broker.stop()


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [part for value in values for part in (option, value)]
