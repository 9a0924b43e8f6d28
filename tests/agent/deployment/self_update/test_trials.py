"""Bad agents in real slots, under the guard and a supervisor: each ends in the agent before it, by itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_agent.deployment.self_update.guard import AgentTrial, Installation
from lineside_agent.service.install import fill_slot
from tests.agent.deployment.self_update.wheels import BASE_PYTHON, make_payload, program_wheel
from tests.peers.supervisor import Supervisor
from tests.peers.waiting import wait_for

READY = """
import os, socket, sys, time
def say(text):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
"""
GOOD = READY + "say('READY=1')\nwhile True:\n    say('WATCHDOG=1')\n    time.sleep(0.1)\n"
BAD = {
    "crashes at import": ("import nothing_of_this_name\n", "exit-code", 3),
    "ends on its own": ("", "success", 6),
    "hangs before it is ready": (READY + "time.sleep(600)\n", "timeout", 2),
    "hangs when it was ready": (READY + "say('READY=1')\ntime.sleep(600)\n", "watchdog", 2),
    "runs and never becomes healthy": (GOOD, "success", 1),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a good agent in slot a."""
    folder = tmp_path_factory.mktemp("shelf")
    payload = make_payload(folder / "payload", program_wheel(folder / "w", "1.0", GOOD))
    fill_slot(folder / "home", payload, python=BASE_PYTHON)
    return folder / "home"


@pytest.fixture
def home(shelf: Path, tmp_path: Path) -> Iterator[Installation]:
    """The same for one test. A slot doesn't move, but what is in this one needs no path of its own."""
    shutil.copytree(shelf, tmp_path / "home", symlinks=True)
    yield Installation(tmp_path / "home")


def put_on_trial(home: Installation, source: str, deadline_s: float) -> None:
    shutil.copytree(home.slot("a"), home.slot("b"), symlinks=True, dirs_exist_ok=True)
    (program,) = home.slot("b").glob("venv/lib/*/site-packages/lineside/__main__.py")
    program.write_text(source)
    home.begin_trial(AgentTrial("b", "a", "1/2/ff", 60.0, deadline_s))
    home.make_current("b")


@pytest.mark.parametrize("kind", BAD)
def test_bad_agent_is_taken_back_and_the_old_one_runs(home: Installation, tmp_path: Path, kind: str) -> None:
    source, result, ends = BAD[kind]
    never_healthy = kind == "runs and never becomes healthy"
    put_on_trial(home, source, deadline_s=2.0 if never_healthy else 600.0)
    with Supervisor(
        home.folder, ["agent", "run"], log=tmp_path / "log", watchdog_s=3.0, start_s=3.0 if "before" in kind else 60.0
    ) as systemd:
        wait_for(
            lambda: home.current() == "a" and home.trial() is None and systemd.heard[-1:] == ["WATCHDOG=1"],
            60.0,
            what=kind,
        )
        assert systemd.results[:ends] == [result] * ends
    verdict = home.verdict()
    assert verdict is not None
    assert verdict["wish"] == "1/2/ff"
    assert ("not healthy within" if never_healthy else "ended again and again") in verdict["reason"]


def test_good_agent_without_a_trial_is_left_alone(home: Installation, tmp_path: Path) -> None:
    with Supervisor(home.folder, ["agent", "run"], log=tmp_path / "log") as systemd:
        wait_for(lambda: systemd.heard.count("WATCHDOG=1") > 5, 60.0)
        assert (home.current(), systemd.starts, systemd.results) == ("a", 1, [])
