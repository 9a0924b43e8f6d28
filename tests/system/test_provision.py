"""Provisioning where it takes longest: under systemd with a hub and a broker, and killed at every step.

The boards have this machine's own architecture, in namespaces, and need root. `test_provision_emulated` has the Pi 5's.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_agent.deployment.self_update.pack import pack
from lineside_agent.deployment.self_update.payload import Payload
from tests.boards.payloads import board_python, small_payload
from tests.peers.booted import Booted, make_root
from tests.peers.small_board import USERS, SmallBoard
from tests.peers.waiting import free_port, wait_for
from tests.peers.wire import Wire
from tests.worlds.secure_site import SecureSite, lineside, make_secure_hub

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of its own need root"),
    pytest.mark.timeout(1800),
]
GROUP = "line-3"


def must(*arguments: str | Path) -> str:
    """Runs a command that gets the board's password from the environment; returns what it printed."""
    process = start([sys.executable, "-m", "lineside", *map(str, arguments)])
    out, said = process.communicate()
    assert process.returncode == 0, f"lineside {arguments}\n{out}\n{said}"
    return out


def start(command: list[str]) -> subprocess.Popen[str]:
    """Starts a command that gets the board's password from the environment."""
    environment = {**os.environ, "LINESIDE_BOARD_PASSWORD": USERS["admin"]}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureSite]:
    site = SecureSite(tmp_path_factory.mktemp("site"), groups=[GROUP])
    site.start_broker()
    site.start_hub()
    yield site
    site.stop()


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    return pack(tmp_path_factory.mktemp("pack") / "payload", python="3.13", architecture=platform.machine())


class SshdBoard:
    """A Debian with systemd and sshd, and a user who may sudo with a password."""

    def __init__(self, folder: Path) -> None:
        self.root = make_root(folder / "root", "openssh-server", "sudo", "iproute2", "procps")
        self.port = free_port()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "id")], check=True)
        self.key = folder / "id.pub"
        (self.root / "etc/ssh/sshd_config.d/port.conf").write_text(f"Port {self.port}\nListenAddress 127.0.0.1\n")
        chroot = ["chroot", str(self.root)]
        subprocess.run([*chroot, "useradd", "-m", "-s", "/bin/bash", "-G", "sudo", "admin"], check=True)
        subprocess.run([*chroot, "chpasswd"], input=f"admin:{USERS['admin']}", text=True, check=True)
        home = self.root / "home/admin/.ssh"
        home.mkdir()
        (home / "authorized_keys").write_text(self.key.read_text())
        subprocess.run([*chroot, "chown", "-R", "admin:", "/home/admin/.ssh"], check=True)
        host = (self.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        self.fingerprint = subprocess.run(
            ["ssh-keygen", "-lf", "-"], input=host, capture_output=True, text=True, check=True
        ).stdout.split()[1]

    def command(self, site: SecureSite, payload: Payload, name: str) -> list[str | Path]:
        return [
            *("board", "provision", "--ssh", f"admin@127.0.0.1:{self.port}", "--host-key", self.fingerprint),
            *("--ssh-key", self.key, "--name", name, "--group", GROUP, "--hub", site.folder, "--payload", payload.path),
            *("--bundle", "surface-12", "--camera", "folder:/opt/lineside/factory/golden", "--board", "x86", "--json"),
            *("--broker", f"mqtts://127.0.0.1:{site.port}"),
        ]


def test_board_by_ssh_is_active_has_joined_and_inspects(site: SecureSite, payload: Payload, tmp_path: Path) -> None:
    board = SshdBoard(tmp_path)
    with Booted(board.root) as booted:
        wait_for(lambda: booted.show("ssh", "ActiveState") == "active", 60.0, what="sshd")
        command = board.command(site, payload, "cam-07")
        first = json.loads(lineside("board", "profiles", "x86", "--json"))
        assert first["board"]["architecture"] == platform.machine()
        started = start([sys.executable, "-m", "lineside", *map(str, command), "--wait", "300"])
        try:
            wait_for(lambda: started.poll() is not None or site.enrolled("cam-07"), 900.0, what="enrolled")
            site.let_in()
            out, err = started.communicate(timeout=900)
        finally:
            started.kill()
            started.wait()
        print(err)
        assert started.returncode == 0, err
        made = json.loads(out)
        assert (made["active"], made["joined"]) == (True, True)
        assert any(engine["name"] == "ort" and engine["available"] for engine in made["detected"]["engines"])
        assert booted.show("lineside-agent", "User") == "lineside"
        again = json.loads(must(*command))
        assert (again["steps_done"], again["carried_bytes"], again["joined"]) == (0, 0, True)


def test_board_asks_for_its_certificate_itself_with_a_token(site: SecureSite, payload: Payload, tmp_path: Path) -> None:
    board = SshdBoard(tmp_path)
    token = tmp_path / "token"
    lineside("hub", "token", "cam-08", "--group", GROUP, "--hub", site.folder, "--out", token)
    site.let_in()
    with Booted(board.root) as booted:
        wait_for(lambda: booted.show("ssh", "ActiveState") == "active", 60.0, what="sshd")
        command = board.command(site, payload, "cam-08")
        made = json.loads(must(*command, "--token", token, "--wait", "300"))
        assert (made["active"], made["joined"]) == (True, True)
        assert "PRIVATE KEY" in (board.root / "etc/lineside/key.pem").read_text()
        assert not (board.root / "etc/lineside/.token").exists()
        again = json.loads(must(*command, "--token", token))
        assert again["steps_done"] == 0, "a token that was used isn't asked again"


def desk(folder: Path, board: SmallBoard, wire: Wire, *more: str) -> tuple[Payload, list[str]]:
    """Makes a hub, a key and a payload; returns the payload, and the command that provisions by the serial line."""
    make_secure_hub(folder / "hub", group=GROUP, host="10.0.0.5")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "id")], check=True)
    packed = small_payload(folder / "payload", python=board_python())
    command = [
        *(sys.executable, "-m", "lineside", "board", "provision", "--serial", wire.desk, "--user", "admin"),
        *("--address", f"127.0.0.1:{board.port}", "--name", "cam-07", "--group", GROUP, "--hub", folder / "hub"),
        *("--ssh-key", folder / "id.pub", "--payload", packed.path, "--json", *more),
    ]
    return packed, list(map(str, command))


def test_command_that_is_killed_at_every_step_comes_to_its_end(tmp_path: Path) -> None:
    with Wire() as wire, SmallBoard(tmp_path / "board", tty=wire.board) as board:
        packed, command = desk(tmp_path / "desk", board, wire, "--bundle", "surface-12")
        kills = 0
        for after in range(1, 40):
            process = start(command)
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line.strip())
                if len(lines) == after:
                    process.kill()  # right behind this step, so in the middle of the next one
                    break
            out, _ = process.communicate()
            if process.returncode == 0:
                print(f"{kills} kills; the last words before each stand above; done after {after} tries")
                break
            assert process.returncode == -signal.SIGKILL, lines
            kills += 1
            print(f"killed behind: {lines[-1]}")
        made = json.loads(out)
        assert made["device"] == "cam-07"
        assert kills >= 12
        assert board.path("opt/lineside/current/digest").read_text() == packed.digest
        assert board.run("lineside", "--version").startswith("lineside")


@pytest.mark.parametrize("way", ["wires come off", "adapter pulled out"])
def test_cable_that_goes_in_the_middle_is_said_and_the_next_try_goes_on(way: str, tmp_path: Path) -> None:
    with Wire() as wire, SmallBoard(tmp_path / "board", tty=wire.board) as board:
        _, command = desk(tmp_path / "desk", board, wire)
        process = start(command)
        assert process.stderr is not None
        for line in process.stderr:
            if "host name is" in line:
                if way == "wires come off":
                    wire.cut()
                else:
                    wire.unplug()
                break
        rest = process.communicate()[1]
        assert process.returncode == 1
        assert "[7009]" in rest
        assert "run the same command again" in rest.lower()
        if way == "wires come off":
            wire.cut(on=False)
            again = start(command)
            said = again.communicate()[1]
            assert again.returncode == 0, said
            assert "already so: the host name is cam-07" in said
