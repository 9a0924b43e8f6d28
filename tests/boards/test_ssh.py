"""A board over SSH: Debian's own sshd, run as whoever runs the tests; which host key is believed, what is carried."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_boards.errors import BoardLinkError, HostKeyError, LoginError
from lineside_boards.provision.ssh_shell import Address, SshShell, Trust, connect, fingerprint
from lineside_boards.provision.transfer import copy_folder
from lineside_hub.simulate.processes import listening
from lineside_runtime.errors import ConfigError, DiskFullError, InputNotFoundError
from tests.peers.processes import ChildProcess
from tests.peers.programs import find_program
from tests.peers.proxy import FaultProxy
from tests.peers.waiting import free_port, wait_for


def nobody(whose: str) -> str:
    raise AssertionError(f"nobody should be asked for the {whose}")


class Sshd:
    """OpenSSH's server, of this user, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.known_hosts = folder / "known_hosts"
        for name, kind in (("host", "ed25519"), ("other", "ed25519"), ("me", "ed25519"), ("stranger", "ed25519")):
            command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", str(folder / name)]
            subprocess.run(command, check=True)
        settings = f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nStrictModes no\n"
        settings += f"AuthorizedKeysFile {folder}/me.pub\nPasswordAuthentication no\nUsePAM no\nMaxStartups 100\n"
        (folder / "sshd_config").write_text(settings)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself up before a login
        program = find_program("sshd", "openssh-server")
        tried = [program, "-t", "-f", str(folder / "sshd_config"), "-o", "PerSourcePenalties=no"]
        lenient = tried[4:] if subprocess.run(tried, capture_output=True).returncode == 0 else []  # from 9.8 on
        self._process = ChildProcess([program, "-D", "-e", "-f", folder / "sshd_config", *lenient], folder / "sshd.log")
        self._process.start()
        self._process.wait_for(lambda: listening(self.port), what="sshd")

    def address(self, port: int = 0) -> Address:
        return Address(getpass.getuser(), "127.0.0.1", port or self.port)

    def key(self, name: str = "host") -> str:
        return (self.folder / f"{name}.pub").read_text().strip()

    def trust(self) -> Trust:
        return Trust(pinned=(self.key(),))

    def connect(self, *, port: int = 0, trust: Trust | None = None, key: str = "me") -> SshShell:
        own = [self.folder / key]
        return connect(self.address(port), trust=trust or self.trust(), keys=own, password=nobody)

    def stop(self) -> None:
        self._process.stop()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    sshd = Sshd(tmp_path_factory.mktemp("sshd"))
    yield sshd
    sshd.stop()


@pytest.fixture
def shell(sshd: Sshd) -> Iterator[SshShell]:
    with sshd.connect() as shell:
        yield shell


def test_commands_their_exit_status_and_their_input(shell: SshShell) -> None:
    answer = shell.run("echo out; echo err >&2; exit 3")
    assert (answer.code, sorted(answer.text.split())) == (3, ["err", "out"])
    assert shell.run("cat", data=b"a\nb").text == "a\nb"
    assert shell.run("true", data=bytes(1 << 20)).code == 0, "input that nobody reads"


def test_key_that_the_serial_line_told_is_the_only_one_that_counts(sshd: Sshd) -> None:
    with sshd.connect(trust=Trust(pinned=(sshd.key("other"), sshd.key()))) as shell:
        assert shell.run("echo hi").text == "hi\n"
    for trust in (
        Trust(pinned=(sshd.key("other"),)),
        Trust(pinned=(sshd.key("other"),), fingerprint=fingerprint(sshd.key())),
    ):
        with pytest.raises(HostKeyError, match="another host key"):
            sshd.connect(trust=trust)


def test_fingerprint_decides(sshd: Sshd) -> None:
    said = subprocess.run(["ssh-keygen", "-lf", str(sshd.folder / "host.pub")], capture_output=True, text=True).stdout
    assert fingerprint(sshd.key()) == said.split()[1]
    with sshd.connect(trust=Trust(fingerprint=said.split()[1], known_hosts=sshd.folder / "absent")) as shell:
        assert shell.run("true").code == 0
    with pytest.raises(HostKeyError, match="another host key"):
        sshd.connect(trust=Trust(fingerprint=fingerprint(sshd.key("other"))))
    assert not (sshd.folder / "absent").exists()


def test_known_hosts_decides(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"[127.0.0.1]:{sshd.port} {sshd.key()}\n")
    sshd.connect(trust=Trust(known_hosts=file)).close()
    file.write_text(f"[127.0.0.1]:{sshd.port} {sshd.key('other')}\n")
    with pytest.raises(HostKeyError, match="another host key") as caught:
        sshd.connect(trust=Trust(known_hosts=file, confirm=lambda _: True))
    assert "ssh-keygen -R" in str(caught.value)


def test_unknown_key_is_shown_and_never_taken_unseen(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "ssh/known_hosts"
    with pytest.raises(HostKeyError, match="not known") as caught:
        sshd.connect(trust=Trust(known_hosts=file))
    assert f"--host-key {fingerprint(sshd.key())}" in str(caught.value)
    shown: list[str] = []

    def decline(text: str) -> bool:
        shown.append(text)
        return False

    with pytest.raises(HostKeyError):
        sshd.connect(trust=Trust(known_hosts=file, confirm=decline))
    assert fingerprint(sshd.key()) in shown[0]
    assert not file.exists()
    sshd.connect(trust=Trust(known_hosts=file, confirm=lambda _: True)).close()
    assert file.read_text() == f"[127.0.0.1]:{sshd.port} {' '.join(sshd.key().split()[:2])}\n"
    sshd.connect(trust=Trust(known_hosts=file)).close()


def test_stranger_is_refused_by_the_board(sshd: Sshd) -> None:
    with pytest.raises(LoginError, match="refuses the login"):
        connect(sshd.address(), trust=sshd.trust(), keys=[sshd.folder / "stranger"], password=lambda _: "x")
    with pytest.raises(InputNotFoundError):
        connect(sshd.address(), trust=sshd.trust(), keys=[sshd.folder / "absent"], password=nobody)


def test_key_with_a_passphrase_asks_for_it(sshd: Sshd, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.write_bytes((sshd.folder / "me").read_bytes())
    locked.chmod(0o600)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", str(locked)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    asked: list[str] = []

    def tell(whose: str) -> str:
        asked.append(whose)
        return "open sesame"

    connect(sshd.address(), trust=sshd.trust(), keys=[locked], password=tell).close()
    assert asked == [f"passphrase of {locked}"]
    with pytest.raises(LoginError, match="can't be used"):
        connect(sshd.address(), trust=sshd.trust(), keys=[locked], password=lambda _: "wrong")


def test_addresses() -> None:
    assert Address.parse("pi@cam-07") == Address("pi", "cam-07")
    assert Address.parse("pi@10.0.0.7:2222") == Address("pi", "10.0.0.7", 2222)
    assert Address.parse("pi@[fe80::1]:22") == Address("pi", "fe80::1")
    assert str(Address.parse("pi@[fe80::1]:2200")) == "pi@[fe80::1]:2200"
    for text in ("host", "@host", "a@", "a@b:0", "a@b:70000", "a@b c", "a@::1"):
        with pytest.raises(ConfigError):
            Address.parse(text)


def make_files(folder: Path, sizes: dict[str, int]) -> Path:
    for number, (name, size) in enumerate(sizes.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.sha256(bytes([number])).digest() * (size // 32))
    return folder


def names(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SIZES = {"agent.json": 3200, "wheels/a b.whl": 320_000, "wheels/c.whl": 3_200_000}


def test_files_are_carried_once_and_what_is_older_goes(shell: SshShell, tmp_path: Path) -> None:
    source, target = make_files(tmp_path / "from", SIZES), tmp_path / "to here"
    (target / "wheels").mkdir(parents=True)
    (target / "wheels/old.whl").write_bytes(b"of the payload before")
    seen: list[tuple[int, int]] = []
    total = sum(SIZES.values())
    assert copy_folder(shell, source, into=str(target), free_bytes=1 << 30, progress=lambda *now: seen.append(now)) == (
        total,
        total,
    )
    assert names(target) == names(source)
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert copy_folder(shell, source, into=str(target), free_bytes=1 << 30) == (0, total)
    (target / "wheels/c.whl").write_bytes(b"damaged")
    assert copy_folder(shell, source, into=str(target), free_bytes=1 << 30) == (SIZES["wheels/c.whl"], total)
    assert names(target) == names(source)


def test_half_a_file_goes_on_and_half_of_another_begins_anew(shell: SshShell, tmp_path: Path) -> None:
    source, target = make_files(tmp_path / "from", SIZES), tmp_path / "to"
    (target / "wheels").mkdir(parents=True)
    whole = (source / "wheels/c.whl").read_bytes()
    (target / "wheels/c.whl.part").write_bytes(whole[:3_000_000])
    (target / "wheels/a b.whl.part").write_bytes(b"something else")
    carried, total = copy_folder(shell, source, into=str(target), free_bytes=1 << 30)
    assert names(target) == names(source)
    assert carried < total - 2_600_000


def test_line_that_breaks_while_carrying_is_said_and_the_next_try_goes_on(sshd: Sshd, tmp_path: Path) -> None:
    source, target = make_files(tmp_path / "from", {"big.whl": 32_000_000}), tmp_path / "to"
    with contextlib.closing(FaultProxy(sshd.port)) as proxy, sshd.connect(port=proxy.port) as shell:

        def cut(done: int, total: int) -> None:
            if done > total // 3:
                proxy.cut()

        with pytest.raises(BoardLinkError):
            copy_folder(shell, source, into=str(target), free_bytes=1 << 30, progress=cut)
    there = target / "big.whl.part"
    wait_for(lambda: there.is_file() and there.stat().st_size > 1_000_000)
    with sshd.connect() as shell:
        carried, total = copy_folder(shell, source, into=str(target), free_bytes=1 << 30)
    assert names(target) == names(source)
    assert carried < total


def test_board_without_room_is_said_before_anything_is_carried(shell: SshShell, tmp_path: Path) -> None:
    source = make_files(tmp_path / "from", SIZES)
    with pytest.raises(DiskFullError, match="MB free"):
        copy_folder(shell, source, into=str(tmp_path / "to"), free_bytes=100_000)
    assert names(tmp_path / "to") == {}


def test_connection_that_is_cut_under_a_command_and_nobody_there_are_said(sshd: Sshd) -> None:
    with contextlib.closing(FaultProxy(sshd.port)) as proxy, sshd.connect(port=proxy.port) as shell:
        assert shell.run("true").code == 0
        proxy.cut()
        with pytest.raises(BoardLinkError):
            shell.run("sleep 30")
    with pytest.raises(BoardLinkError, match="doesn't answer by SSH"):
        sshd.connect(port=free_port())
