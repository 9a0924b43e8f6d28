"""The units under systemd itself, as the first process of a small Debian: READY, watchdog, trials, the guard's timer.

Needs root and ``mmdebstrap``; about five minutes, most of them waiting for systemd's own time-outs.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_agent.deployment.self_update import guard
from lineside_agent.deployment.self_update.guard import AgentTrial, Installation
from lineside_agent.deployment.self_update.pack import pack
from lineside_agent.service.install import install
from tests.peers.booted import Booted, make_root
from tests.peers.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of its own need root"),
    pytest.mark.timeout(1800),
]
AGENT = "lineside-agent"
CONFIG = """
device = "cam-01"
folder = "/var/lib/lineside"
bundle = "/opt/lineside/slots/a/venv/lib/python3.13/site-packages/lineside_models/zoo/surface-12"
[camera]
type = "simulator"
rate_hz = 4.0
"""
READY = """
import os, socket, time
def say(text):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
"""
BAD = {
    "crashes": ("raise SystemExit(3)\n", "exit-code (exited 3)"),
    "hangs": (READY + "say('READY=1')\ntime.sleep(999)\n", "watchdog (killed ABRT)"),
    "is never healthy": (READY + "say('READY=1')\nwhile True:\n    say('WATCHDOG=1')\n    time.sleep(1)\n", ""),
}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Booted, Path]]:
    folder = tmp_path_factory.mktemp("board")
    root = make_root(folder / "root")
    payload = pack(folder / "payload", python="3.13", architecture=platform.machine())
    install(root, payload=payload, foreign=True)
    (root / "etc/lineside").mkdir()
    (root / "etc/lineside/agent.toml").write_text(CONFIG)
    (root / "etc/lineside/agent.toml").chmod(0o600)  # tmpfiles opens it to the agent's group
    with Booted(root) as booted:
        yield booted, root


def runs(booted: Booted) -> bool:
    return booted.show(AGENT, "ActiveState") == "active" and "frames inspected" in booted.show(AGENT, "StatusText")


def test_agent_is_ready_as_its_own_user_behind_its_sandbox(board: tuple[Booted, Path]) -> None:
    booted, _ = board
    wait_for(
        lambda: runs(booted), 180.0, what=booted.run("journalctl", "--namespace=lineside", "-n", "20", "--no-pager")
    )
    assert booted.show(AGENT, "User") == "lineside"
    pid = booted.show(AGENT, "MainPID")
    assert booted.run("stat", "-c", "%U", f"/proc/{pid}") == "lineside"
    assert "NoNewPrivs:\t1" in booted.run("cat", f"/proc/{pid}/status")

    def status() -> dict[str, Any]:
        read: dict[str, Any] = json.loads(booted.run("cat", "/var/lib/lineside/status.json"))  # a link into its /run
        return read

    wait_for(lambda: status()["ready"], 60.0, what="the file is written every few seconds")
    assert (status()["agent_slot"], status()["faults"]) == ("a", 0)
    assert booted.run("lineside", "agent", "status", "--config", "/etc/lineside/agent.toml").startswith("device")
    assert "no slot" not in booted.run("lineside", "agent", "doctor", "--config", "/etc/lineside/agent.toml")


def test_agent_that_stands_still_is_started_again_by_the_watchdog(board: tuple[Booted, Path]) -> None:
    booted, _ = board
    wait_for(lambda: runs(booted), 180.0)
    pid = booted.show(AGENT, "MainPID")
    booted.run("systemctl", "kill", "-s", "STOP", AGENT)
    wait_for(lambda: booted.show(AGENT, "MainPID") not in (pid, "0") and runs(booted), 180.0)
    assert int(booted.show(AGENT, "NRestarts")) >= 1


@pytest.mark.parametrize("kind", BAD)
def test_bad_agent_is_taken_back(board: tuple[Booted, Path], kind: str) -> None:
    booted, root = board
    source, last_end = BAD[kind]
    wait_for(lambda: runs(booted), 180.0)
    home = Installation(root / "opt/lineside")
    shutil.rmtree(home.slot("b"), ignore_errors=True)
    shutil.copytree(home.slot("a"), home.slot("b"), symlinks=True)
    (home.slot("b") / "venv/lib/python3.13/site-packages/lineside/__main__.py").write_text(source)
    home.begin_trial(AgentTrial("b", "a", kind, 1.0, 20.0 if kind == "is never healthy" else 600.0))
    home.make_current("b")
    booted.run("systemctl", "restart", "--no-block", AGENT)
    wait_for(lambda: home.current() == "a" and runs(booted), 300.0, what=kind)
    verdict = home.verdict()
    assert verdict is not None
    assert (verdict["wish"], verdict["to"]) == (kind, "a")
    assert last_end in verdict["reason"] if last_end else "not healthy within 20 s" in verdict["reason"]
    assert home.trial() is None
    assert guard.TRIAL not in os.listdir(home.folder)  # noqa: PTH208 - the guard's own name for it


def test_removal_from_the_running_system_leaves_nothing(board: tuple[Booted, Path]) -> None:
    booted, root = board
    said = booted.run("lineside", "agent", "uninstall-service", "--purge")
    assert said == "removed the service"
    assert booted.run("id", "lineside").endswith("no such user")
    assert "0 loaded units" in booted.run("systemctl", "list-units", "--all", "--no-pager", "lineside*")
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if "lineside" in path.name) == []
