"""``lineside board provision`` and ``console``: from a getty on a wire to an installed agent, by real programs."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib
from cryptography import x509

from lineside.cli import main
from lineside_agent.deployment.self_update.guard import Installation
from lineside_boards.provision import network
from lineside_boards.provision.terminal import ESCAPE
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle
from tests.boards.payloads import small_payload
from tests.peers.small_board import USERS, SmallBoard
from tests.peers.waiting import wait_for
from tests.peers.wire import Wire
from tests.worlds.secure_site import make_secure_hub


class ProvisionInputs:
    """What somebody has who wants to provision a board."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub = folder / "hub"
        make_secure_hub(self.hub, group="line-3", host="10.0.0.5")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "id")], check=True)
        (folder / "password").write_text(f"{USERS['admin']}\n")

    @property
    def payload(self) -> Path:
        place = self.folder / "payload"
        if not place.exists():
            small_payload(place)
        return place

    def command(self, *way: str, **changes: str | None) -> list[str]:
        wanted: dict[str, str | None] = {
            "name": "cam-07",
            "group": "line-3",
            "hub": str(self.hub),
            "ssh-key": str(self.folder / "id.pub"),
            "password-file": str(self.folder / "password"),
            "known-hosts": str(self.folder / "known_hosts"),
            "bundle": "surface-12",
            **changes,
        }
        told = [part for key, value in wanted.items() if value is not None for part in (f"--{key}", value)]
        return ["board", "provision", *way, *told]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> ProvisionInputs:
    return ProvisionInputs(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def no_secrets_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LINESIDE_HUB", "LINESIDE_BOARD_PASSWORD", "LINESIDE_SUDO_PASSWORD", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def ssh_board(desk: ProvisionInputs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallBoard]:
    with SmallBoard(tmp_path_factory.mktemp("ssh")) as board:
        for user in USERS:
            board.let_in(user, (desk.folder / "id.pub").read_text().strip())
        yield board


@pytest.mark.timeout(280)
@pytest.mark.slow
def test_board_on_a_wire_becomes_a_device_though_the_first_try_is_killed(
    desk: ProvisionInputs, tmp_path: Path, no_secrets_around: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with Wire() as wire, SmallBoard(tmp_path, tty=wire.board) as board:
        way = ["--serial", wire.desk, "--user", "admin", "--address", f"127.0.0.1:{board.port}"]
        command = desk.command(*way, payload=str(desk.payload))
        with (tmp_path / "first.log").open("wb") as log:
            first = subprocess.Popen([sys.executable, "-m", "lineside", *command], stdout=log, stderr=log)
            carried = board.path("home/admin/.cache/lineside/payload/wheels")
            try:
                wait_for(
                    lambda: first.poll() is not None or (carried.is_dir() and any(carried.iterdir())),
                    120.0,
                    what="wheels",
                )
            finally:
                first.kill()
                first.wait()
        assert first.returncode == -signal.SIGKILL, (tmp_path / "first.log").read_text()
        capsys.readouterr()
        assert main([*command, "--json"]) == 0
        told = capsys.readouterr()
        made = json.loads(told.out)
        assert "already so: the host name is cam-07" in told.err, "the killed one had come that far"
        assert board.fingerprint() in made["host_keys"], "read over the wire"
        assert (made["device"], made["active"], made["joined"]) == ("cam-07", False, None)
        assert made["detected"]["architecture"] == os.uname().machine
        assert "surface-12 is on the board with the agent: it is not carried" in told.err
        _check_board(desk, board)
        assert USERS["admin"] not in told.out + told.err + (tmp_path / "first.log").read_text()
        assert USERS["admin"].encode() not in bytes(wire.heard), "it was never echoed"
        assert main([*command, "--json"]) == 0
        again = capsys.readouterr()
        assert (json.loads(again.out)["steps_done"], json.loads(again.out)["carried_bytes"]) == (0, 0)
        assert "enrolled" not in again.err, "no second certificate"
        wait_for(lambda: wire.heard.rstrip().endswith(b"login:"), what="nobody stays logged in")


def _check_board(desk: ProvisionInputs, board: SmallBoard) -> None:
    config = tomllib.loads(board.path("etc/lineside/agent.toml").read_text())
    assert (config["device"], config["group"], config["bundle"]) == ("cam-07", "line-3", "/opt/lineside/factory")
    assert config["link"]["url"] == "mqtts://10.0.0.5:8883"
    certificate = x509.load_pem_x509_certificate(board.path("etc/lineside/cert.pem").read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=cam-07"
    assert board.path("etc/lineside/root.json").read_bytes() == (desk.hub / "root.json").read_bytes()
    assert board.run("stat", "-c", "%U:%G %a", "/etc/lineside/key.pem") == "root:lineside 640"
    home = Installation(board.path("opt/lineside"))
    assert home.current() == "a"
    assert (home.slot("a") / "digest").is_file()
    assert open_bundle(board.path("opt/lineside/factory")).digest == open_bundle(zoo.path("surface-12")).digest
    assert os.path.lexists(board.path("etc/systemd/system/multi-user.target.wants/lineside-agent.service"))
    assert board.run("lineside", "--version").startswith("lineside")
    assert board.path("etc/hostname").read_text() == "cam-07\n"
    assert not list(board.path("home/admin/.cache/lineside").iterdir()), "what was only carried is gone"


def test_board_without_a_network_is_told_how_long_the_wire_would_take(
    desk: ProvisionInputs,
    tmp_path: Path,
    no_secrets_around: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "ADDRESS_WAIT_S", 0.0)
    with Wire() as wire, SmallBoard(tmp_path, tty=wire.board) as board:
        board.path("usr/local/bin").mkdir(exist_ok=True)
        board.path("usr/local/bin/ip").write_text("#!/bin/sh\nexit 0\n")
        board.path("usr/local/bin/ip").chmod(0o755)
        assert main(desk.command("--serial", wire.desk, "--user", "admin")) == 1
    said = capsys.readouterr().err
    assert "108 MB would take 3.5 hours over this line (115200 baud)" in said
    assert "[7012] the board has an address" in said
    assert "--static" in said


@pytest.mark.parametrize(
    ("user", "changes", "words"),
    [
        ("admin", {}, "[7010]"),
        ("admin", {"host-key": "SHA256:AAAA"}, "another host key"),
        ("guest", {"host-key": ""}, "[7011] sudo refuses guest"),
        ("admin", {"host-key": "", "password-file": "WRONG"}, "[7011] sudo refuses admin"),
        ("admin", {"host-key": "", "password-file": None}, "nobody to ask"),
        ("admin", {"host-key": "", "board": "rpi5"}, "isn't a Raspberry Pi 5"),
        ("nobody", {"host-key": "", "password-file": "WRONG"}, "[7011]"),
        ("robot", {"host-key": "", "payload": "OTHER"}, "lineside agent pack DIR --python 3."),
        ("robot", {"host-key": "", "bundle": "/absent"}, "[2002]"),
        ("robot", {"host-key": "", "name": "cam 07"}, "host name"),
        ("robot", {"host-key": "", "token": "/absent"}, "[2002]"),
    ],
)
def test_what_can_not_be_is_said_and_changes_nothing_on_the_board(
    desk: ProvisionInputs,
    ssh_board: SmallBoard,
    tmp_path: Path,
    no_secrets_around: None,
    capsys: pytest.CaptureFixture[str],
    user: str,
    changes: dict[str, str | None],
    words: str,
) -> None:
    told = {
        key: ssh_board.fingerprint() if (key, value) == ("host-key", "") else value for key, value in changes.items()
    }
    if told.get("password-file") == "WRONG":
        (tmp_path / "wrong").write_text("wrong\n")
        told["password-file"] = str(tmp_path / "wrong")
    if told.get("payload") == "OTHER":
        told["payload"] = str(small_payload(tmp_path / "other", python="3.2").path)
    assert main(desk.command("--ssh", f"{user}@127.0.0.1:{ssh_board.port}", **told)) == 1
    assert words in capsys.readouterr().err
    for place in ("opt/lineside", "etc/lineside"):
        assert not ssh_board.path(place).exists()


@pytest.mark.parametrize(
    ("way", "changes", "words"),
    [
        ("--serial", {"gateway": "10.0.0.1"}, "--gateway without --static"),
        ("--serial", {"dns": "10.0.0.1"}, "--dns without --static"),
        ("--serial", {"static": "10.0.0.255/24"}, "[2001] --static; expected an address of a device"),
        ("--serial", {"wifi": "hall", "wifi-country": "Germany"}, "[2001] --wifi-country; expected a country"),
        ("--ssh", {"static": "10.0.0.7/24"}, "--static with --ssh"),
        ("--ssh", {"ssh-key": "EMPTY"}, "is empty; expected a line as in id_ed25519.pub"),
    ],
)
def test_settings_that_could_not_hold_are_refused_before_the_board_is_reached(
    desk: ProvisionInputs,
    tmp_path: Path,
    no_secrets_around: None,
    capsys: pytest.CaptureFixture[str],
    way: str,
    changes: dict[str, str],
    words: str,
) -> None:
    (tmp_path / "empty.pub").write_text("\n")
    told = {key: str(tmp_path / "empty.pub") if value == "EMPTY" else value for key, value in changes.items()}
    assert main(desk.command(way, "/dev/absent" if way == "--serial" else "admin@10.255.255.1", **told)) == 1
    assert words in capsys.readouterr().err


def test_full_board_is_said(
    desk: ProvisionInputs, tmp_path: Path, no_secrets_around: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with SmallBoard(tmp_path, size_mb=30) as board:
        board.let_in("robot", (desk.folder / "id.pub").read_text().strip())
        way = ["--ssh", f"robot@127.0.0.1:{board.port}", "--host-key", board.fingerprint()]
        assert main(desk.command(*way, payload=str(desk.payload))) == 1
        assert "[4002]" in capsys.readouterr().err
        assert not board.path("opt/lineside/current").exists()


def test_console_joins_terminal_and_line_until_the_escape(tmp_path: Path) -> None:
    with Wire() as wire:
        other = os.open(wire.board, os.O_RDWR | os.O_NOCTTY)
        here, terminal = pty.openpty()
        log = tmp_path / "console.log"
        command = [sys.executable, "-m", "lineside", "board", "console", wire.desk, "--log", str(log)]
        child = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal)
        shown = bytearray()
        try:

            def read_until(words: bytes) -> None:
                wait_for(lambda: _read_into(shown, here) and words in shown, 60.0, what=repr(words))

            read_until(b"Ctrl-] ends it")
            os.write(here, b"hello\r\x03")
            wait_for(lambda: b"hello\r\x03" in bytes(wire.typed), what="keys, Ctrl-C too")
            os.write(other, b"\x1b[32mcam-07\x1b[0m login: ")
            read_until(b"cam-07\x1b[0m login: ")
            os.write(here, ESCAPE)
            assert child.wait(60) == 0
            read_until(b"left ")
            assert log.read_bytes() == b"\x1b[32mcam-07\x1b[0m login: "
        finally:
            child.kill()
            child.wait()
            for end in (other, here, terminal):
                os.close(end)


def _read_into(shown: bytearray, end: int) -> bool:
    os.set_blocking(end, False)
    with contextlib.suppress(BlockingIOError):
        shown += os.read(end, 4096)
    return True


def test_console_without_a_terminal_says_so() -> None:
    command = [sys.executable, "-m", "lineside", "board", "console", "/dev/absent"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no terminal here" in done.stderr
