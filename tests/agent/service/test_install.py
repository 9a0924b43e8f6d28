"""Installation of the service under a root of its own: files, modes, and their removal."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_agent.deployment.self_update import guard
from lineside_agent.service.install import COMMAND, GUARD, RECORD, install, installed_files, uninstall
from lineside_runtime.errors import ConfigError, IncompatibleBundleError, InputNotFoundError
from tests.agent.deployment.self_update.wheels import make_payload, program_wheel
from tests.peers.programs import find_program

UNITS = "usr/lib/systemd/system"


def tree(root: Path) -> dict[str, object]:
    """Every path below root with its mode and content."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with some of the folders, and files of its own in them."""
    root = tmp_path / "root"
    (root / UNITS).mkdir(parents=True)
    (root / UNITS / "other.service").write_text("[Service]\nExecStart=/bin/true\n")
    (root / "usr/bin").mkdir()
    (root / "usr/lib/tmpfiles.d").mkdir()
    return root


def test_removal_is_as_clean_as_installation(root: Path, tmp_path: Path) -> None:
    before = tree(root)
    payload = make_payload(tmp_path / "p", program_wheel(tmp_path / "w", "1.0", "print('on')"))
    install(root, payload=payload, foreign=True, keep_wheels=True)
    assert len(tree(root)) > len(before) + 20
    install(root)  # again: an upgrade of the units
    uninstall(root)
    assert tree(root) == before


def test_records_and_configuration_stay_unless_purged(root: Path) -> None:
    before = tree(root)
    install(root)
    for place in ("var/lib/lineside/records.db", "etc/lineside/agent.toml"):
        (root / place).parent.mkdir(parents=True)
        (root / place).write_text("somebody's work")
    said: list[str] = []
    uninstall(root, progress=said.append)
    assert (root / "var/lib/lineside/records.db").is_file()
    assert "--purge" in said[-1]
    install(root)
    uninstall(root, purge=True)
    left = tree(root)
    assert {place: left[place] for place in before} == before
    assert not [place for place in left if "lineside" in place]


def test_slot_of_a_foreign_board_is_made_without_running_it(root: Path, tmp_path: Path) -> None:
    wheel = program_wheel(tmp_path / "w", "1.0", "print('on')")
    payload = make_payload(tmp_path / "p", wheel, architecture="aarch64", python="3.13")
    install(root, payload=payload, foreign=True)
    home = guard.Installation(root / "opt/lineside")
    assert home.current() == "a"
    assert (home.slot("a") / "venv/bin/python").readlink() == Path("/usr/bin/python3.13")
    site = home.slot("a") / "venv/lib/python3.13/site-packages"
    assert sorted(path.name for path in site.iterdir()) == ["lineside", "lineside-1.0.dist-info"]
    assert (home.slot("a") / "digest").read_text() == payload.digest
    of_this_machine = [
        path for path in home.folder.rglob("*") if path.is_file() and str(tmp_path).encode() in path.read_bytes()
    ]
    assert of_this_machine == []


def test_payload_for_another_python_is_refused(root: Path, tmp_path: Path) -> None:
    wheel = program_wheel(tmp_path / "w", "1.0", "print('on')")
    with pytest.raises(IncompatibleBundleError, match="another board"):
        install(root, payload=make_payload(tmp_path / "p", wheel, python="3.2"))


def test_file_of_somebody_else_is_not_overwritten(root: Path) -> None:
    (root / UNITS / "lineside-agent.service").write_text("mine")
    before = tree(root)
    with pytest.raises(ConfigError, match="not of this installer"):
        install(root)
    assert tree(root) == before


def test_what_was_changed_by_hand_is_named(root: Path) -> None:
    install(root)
    assert installed_files(root) == []
    (root / GUARD).write_text("# mine")
    (root / COMMAND).unlink()
    assert installed_files(root) == sorted([GUARD, COMMAND])


def test_uninstalling_what_is_not_there_is_said(root: Path) -> None:
    with pytest.raises(InputNotFoundError):
        uninstall(root)


def test_commands_install_and_remove(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(root)
    assert main(["agent", "install-service", "--root", str(root), "--no-start"]) == 0
    assert (root / RECORD).is_file()
    assert not (root / "etc/systemd/system").exists()  # not enabled
    assert main(["agent", "uninstall-service", "--root", str(root)]) == 0
    assert tree(root) == before
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no slot holds an agent" in printed.err and "--payload DIR" in printed.err


@pytest.mark.parametrize("unit", ["lineside-agent.service", "lineside-guard.service"])
def test_exposure_is_at_most_three(root: Path, unit: str) -> None:
    """``systemd-analyze security`` scores 0 (safe) to 10; its threshold counts in tenths."""
    program = find_program("systemd-analyze", "systemd")
    install(root)
    done = subprocess.run(
        [program, "security", "--offline=yes", "--no-pager", "--threshold=30", str(root / UNITS / unit)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    assert "Overall exposure level" in done.stdout


@pytest.mark.parametrize("unit", ["lineside-agent.service", "lineside-guard.service", "lineside-guard.timer"])
def test_units_are_understood(root: Path, unit: str) -> None:
    """Unknown keys and bad values are warnings of systemd's parser; programs that this root lacks don't matter."""
    program = find_program("systemd-analyze", "systemd")
    install(root)
    done = subprocess.run([program, "verify", "--man=no", str(root / UNITS / unit)], capture_output=True, text=True)
    wrong = [line for line in done.stderr.splitlines() if "lineside" in line and "is not executable" not in line]
    assert wrong == []
