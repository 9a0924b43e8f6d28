"""The guard: its decisions under any order of starts, ends and kills, and its real process in front of real slots."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_agent.deployment.self_update import guard
from lineside_agent.deployment.self_update.guard import BUDGET, AgentTrial, Installation, TrialClock, decide

GUARD = Path(guard.__file__)
NOW = TrialClock("boot-1", 1000.0)
BOTH = frozenset("ab")
TRIAL = AgentTrial(slot="b", back="a", wish="1/2/ff", healthy_s=60.0, deadline_s=600.0)


STARTED = TRIAL._replace(boot_id="boot-1")


@pytest.mark.parametrize(
    ("current", "trial", "whole", "slot", "after", "reason"),
    [
        pytest.param("a", None, "ab", "a", None, "", id="without a trial"),
        pytest.param("b", TRIAL, "ab", "b", STARTED._replace(spent=1, since_s=1000.0), "", id="a start is paid for"),
        pytest.param(
            "b", STARTED._replace(spent=1, since_s=900.0), "ab", "b", STARTED._replace(spent=2, since_s=900.0), "",
            id="a later start moves no deadline",
        ),
        pytest.param(
            "b", TRIAL._replace(spent=1, boot_id="boot-0", since_s=9e9), "ab",
            "b", STARTED._replace(spent=2, since_s=1000.0), "", id="another boot begins the time anew",
        ),
        pytest.param(
            "b", TRIAL._replace(spent=BUDGET, last_end="watchdog (killed ABRT)"), "ab", "a", None, "watchdog",
            id="the budget is spent",
        ),
        pytest.param(
            "b", STARTED._replace(spent=1, since_s=300.0), "ab", "a", None, "not healthy within 600 s",
            id="the deadline has passed",
        ),
        pytest.param("a", TRIAL._replace(spent=99), "ab", "a", None, "", id="the slot of the trial is not current"),
        pytest.param("b", TRIAL, "a", "a", None, None, id="the slot on trial is not whole"),
        pytest.param("b", None, "a", "a", None, None, id="the current slot is not whole"),
        pytest.param(None, None, "a", "a", None, None, id="there is no current slot"),
        pytest.param("a", None, "", None, None, None, id="no slot is whole"),
        pytest.param("b", TRIAL._replace(spent=99), "b", "b", None, "", id="a bad agent is better than none"),
    ],
)  # fmt: skip
def test_the_slot_that_is_started(
    current: guard.AgentSlot | None,
    trial: AgentTrial | None,
    whole: str,
    slot: str | None,
    after: AgentTrial | None,
    reason: str | None,
) -> None:
    decision = decide(current, trial, frozenset(whole), NOW)
    assert decision.slot == slot
    if reason is not None:
        assert decision.trial == after
        assert reason in decision.reason and bool(reason) == bool(decision.reason)


@pytest.mark.parametrize(("result", "starts"), [("watchdog", 2), ("exit-code", 3), ("core-dump", 3), ("success", 6)])
def test_how_it_ends_says_how_often_it_may(tmp_path: Path, result: str, starts: int) -> None:
    home = make_home(tmp_path)
    home.begin_trial(TRIAL)
    home.make_current("b")
    made = 0
    while (decision := decide(home.current(), home.trial(), BOTH, NOW)).slot == "b":
        assert decision.trial is not None
        home.note_trial(decision.trial)
        guard.ended(home, result, "")
        made += 1
    assert made == starts


def test_end_of_an_agent_that_is_not_on_trial_costs_nothing(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.begin_trial(TRIAL)  # killed before the flip: the old agent ended
    assert guard.ended(home, "exit-code", "") == 0
    assert home.trial() == TRIAL


def test_fields_of_a_newer_agent_stay_in_the_file(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.begin_trial(TRIAL)
    path = tmp_path / guard.TRIAL
    path.write_text(json.dumps({**json.loads(path.read_text()), "mood": "hopeful"}))
    trial = home.trial()
    assert trial == TRIAL
    home.note_trial(trial._replace(spent=1))
    assert json.loads(path.read_text())["mood"] == "hopeful"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"slot": "b"}', "\x00\x00", '{"slot": '])
def test_trial_that_cannot_be_read_leaves_the_current_slot(tmp_path: Path, content: str) -> None:
    home = make_home(tmp_path)
    (tmp_path / guard.TRIAL).write_text(content)
    assert start(home).stdout == "slot a\n"


# -- the process ---------------------------------------------------------------------------------------------------


def make_home(folder: Path) -> Installation:
    """Two slots whose Python is a shell script that says which one it is."""
    home = Installation(folder)
    for slot in guard.SLOTS:
        python = home.python(slot)
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\necho slot {slot}\n")
        python.chmod(0o755)
        (home.slot(slot) / guard.DIGEST).write_text("d")
    home.make_current("a")
    return home


def start(home: Installation, *, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the guard as systemd does, with nothing of ours to import."""
    program = [str(GUARD)] if script is None else ["-c", script, str(GUARD)]
    command = [sys.executable, "-I", "-S", *program, "--home", str(home.folder), "run", "--", "agent", "run"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_guard_needs_the_standard_library_only_and_becomes_the_agent(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.python("a").write_text('#!/bin/sh\necho "$0 $*"\n')
    done = start(home)
    assert done.stdout == f"{home.python('a')} -I -m lineside agent run\n"  # never through `current`
    assert (done.returncode, done.stderr) == (0, "")


def test_python_that_cannot_be_started_is_no_end(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.begin_trial(TRIAL)
    home.make_current("b")
    home.python("b").write_text("#!/does/not/exist\n")
    done = start(home)
    assert done.stdout == "slot a\n"
    assert "slot b is not whole" in done.stderr
    assert (home.current(), home.trial()) == ("a", None)
    verdict = home.verdict()
    assert verdict is not None
    assert (verdict["slot"], verdict["wish"], verdict["to"]) == ("b", "1/2/ff", "a")


def test_nothing_to_start_is_said(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    for slot in guard.SLOTS:
        (home.slot(slot) / guard.DIGEST).unlink()
    done = start(home)
    assert (done.returncode, done.stdout) == (1, "")
    assert "install an agent" in done.stderr


@pytest.mark.parametrize(("since_s", "code"), [(0.0, 1), (-700.0, 0)])
def test_overdue_is_an_exit_code_for_the_timer(tmp_path: Path, since_s: float, code: int) -> None:
    home = make_home(tmp_path)
    clock = guard.read_clock()
    home.begin_trial(TRIAL._replace(boot_id=clock.boot_id, since_s=clock.now_s + since_s, spent=1))
    home.make_current("b")
    command = [sys.executable, "-I", "-S", str(GUARD), "--home", str(tmp_path), "overdue"]
    assert subprocess.run(command, timeout=60).returncode == code


def test_start_that_cannot_be_paid_for_runs_the_old_agent(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.begin_trial(TRIAL)
    home.make_current("b")
    full = "import os, sys\ndef none(*_): raise OSError(28, 'No space left on device')\nos.fsync = none\n" + EXECUTE
    done = start(home, script=full)
    assert done.stdout == "slot a\n"
    assert home.trial() is not None


EXECUTE = """
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

MORTAL = (
    """
import os, signal, sys
left = int(sys.argv.pop(1))
def hook(event, arguments):
    global left
    changes = event in ("os.rename", "os.remove", "os.symlink", "os.exec")
    if changes or (event == "open" and ".tmp" in str(arguments[0])):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""
    + EXECUTE
)
"""A guard that is killed before its nth change of the disk."""


@pytest.mark.parametrize("spent", [0, BUDGET])
def test_guard_killed_before_any_of_its_changes_ends_in_a_slot_that_runs(tmp_path: Path, spent: int) -> None:
    for number in range(30):
        folder = tmp_path / str(number)
        home = make_home(folder)
        home.begin_trial(TRIAL._replace(spent=spent))
        home.make_current("b")
        command = [sys.executable, "-I", "-S", "-c", MORTAL, str(number), str(GUARD), "--home", str(folder), "run"]
        killed = subprocess.run(command, capture_output=True, text=True, timeout=60)
        done = start(home)
        assert done.stdout == ("slot a\n" if spent else "slot b\n"), done.stderr
        trial = home.trial()
        if spent:
            assert (home.current(), trial) == ("a", None)
            verdict = home.verdict()
            assert verdict is not None
            assert verdict["wish"] == TRIAL.wish
        else:
            assert trial is not None
            assert trial.spent >= 1
        if killed.returncode != -signal.SIGKILL:
            assert killed.returncode == 0
            assert number > (5 if spent else 2)  # it was killed at least so often before
            return
    raise AssertionError("it changes the disk more often than thirty times")


# -- any order of events -------------------------------------------------------------------------------------------

moves = st.lists(
    st.tuples(
        st.sampled_from(["start", "crash", "hang", "healthy", "reboot", "wait", "switch", "kill"]),
        st.integers(0, 5),
    ),
    max_size=40,
)


class Disk:
    """The guard's files as values; each change is a step that a kill can come before."""

    def __init__(self) -> None:
        self.current: guard.AgentSlot = "a"
        self.trial: guard.AgentTrial | None = None
        self.verdict: object = None
        self.good = "a"
        self.clock = NOW

    def steps(self, decision: guard.StartDecision) -> list[tuple[str, object]]:
        if decision.reason:
            return [("verdict", self.trial), ("current", decision.slot), ("trial", None)]
        return [("trial", decision.trial)] if decision.trial != self.trial else []

    def start(self, killed_after: int | None = None) -> str | None:
        decision = decide(self.current, self.trial, BOTH, self.clock)
        for number, (name, value) in enumerate(self.steps(decision)):
            if number == killed_after:
                return None
            setattr(self, name, value)
        return decision.slot


@settings(max_examples=300, deadline=None)
@given(moves=moves)
def test_no_order_of_ends_and_kills_leaves_a_bad_agent_running(moves: list[tuple[str, int]]) -> None:
    disk = Disk()
    wish = 0
    for move, number in moves:
        other = "b" if disk.current == "a" else "a"
        if move == "switch" and disk.trial is None:
            wish += 1
            new = TRIAL._replace(slot=other, back=disk.current, wish=str(wish))
            for step, (name, value) in enumerate((("trial", new), ("current", other))):
                if step == number:
                    break
                setattr(disk, name, value)
        elif move == "healthy" and disk.trial is not None and disk.trial.slot == disk.current:
            disk.trial, disk.good = None, disk.current
        elif move == "reboot":
            disk.clock = TrialClock(f"boot-{len(moves)}-{number}-{wish}", float(number))
        elif move == "wait":
            disk.clock = disk.clock._replace(now_s=disk.clock.now_s + 150.0 * number)
        else:
            spent = disk.trial.spent if disk.trial else 0
            ran = disk.start(number if move == "kill" else None)
            if ran is not None and disk.trial is not None:
                assert disk.trial.spent > spent  # paid before it runs
                cost = {"crash": 1, "hang": 2}.get(move, 0)
                disk.trial = disk.trial._replace(spent=disk.trial.spent + cost)
        assert disk.current in BOTH
        if disk.trial is None:
            assert disk.current == disk.good or disk.verdict is None
    for _ in range(BUDGET + 1):  # an agent that never becomes healthy is gone after so many starts
        disk.start()
    assert disk.trial is None
    assert disk.current == disk.good
