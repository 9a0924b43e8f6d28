"""The guard: starts the agent from the slot that should run, and rolls a bad new agent back.

One file, standard library only. `lineside agent install-service` puts a copy outside of the slots
(``/usr/lib/lineside/lineside_guard.py``). The system's Python runs it (``python3 -I``), and no update replaces it, so
it runs whatever an update breaks. The agent imports the same file for the formats that both share.

::

    /opt/lineside/
    ├── current -> slots/a     what runs; flipped by a rename, so that it never points nowhere
    ├── trial.json             a new slot is on trial; removed by the agent once it is healthy and has reached the hub
    ├── verdict.json           why the last trial ended badly
    └── slots/
        ├── a/  digest         written last: the slot is whole
        │       payload/       agent.json and the wheels that it was made of
        │       venv/
        └── b/  …

Invariants, each held by a test:

1. A start of a slot on trial is counted on disk before the slot runs, so a slot that kills the machine is counted.
2. Every end of a trial is one step on disk: well by the removal of ``trial.json``, badly by the flip of ``current``.
   What comes before and after may be done twice, or not at all: verdict, flip, removal.
3. A trial whose slot isn't current has not begun, or has ended: it is removed and has no effect.
4. A slot that isn't whole is never started while the other one is.

Each end of the agent costs a part of `BUDGET`: an unseen one (power cut) 1, a crash 2, a hang 3. So six power cuts,
three crashes or two hangs roll an agent back, and so does a deadline that passes before it is healthy.

::

    lineside_guard.py run -- agent run --config FILE   start the agent: ExecStart
    lineside_guard.py ended                            note how it ended: ExecStopPost, reads $SERVICE_RESULT
    lineside_guard.py overdue                          exit 0 if the trial's time is over: the timer's ExecCondition
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

FORMAT = 1
"""Of ``trial.json`` and ``verdict.json``. Fields may be added; a guard is never updated, so the format stays 1."""

FOLDER = "/opt/lineside"
CURRENT, TRIAL, VERDICT, DIGEST, VENV = "current", "trial.json", "verdict.json", "digest", "venv"
SLOTS = ("a", "b")

BUDGET = 6
START_COST = 1
END_COSTS = {"watchdog": 2, "timeout": 2, "exit-code": 1, "signal": 1, "core-dump": 1, "oom-kill": 1}
"""What systemd's ``$SERVICE_RESULT`` (systemd.exec(5)) costs beside the start."""

AgentSlot = Literal["a", "b"]


class AgentTrial(NamedTuple):
    """A slot on trial.

    Attributes:
        back: Where to go back to.
        wish: Identifies the desired state that it answers: ``epoch/gen/sha256``.
        healthy_s: How long the agent must be healthy before it ends the trial; decided by the agent that it replaces.
        deadline_s: How long it may run without being healthy, within one boot.
        spent: Of `BUDGET`.
        boot_id: Boot of the last start.
        since_s: Seconds since that boot at its first start.
        last_end: How it ended the last time, for people.
    """

    slot: str
    back: str
    wish: str
    healthy_s: float
    deadline_s: float
    spent: int = 0
    boot_id: str = ""
    since_s: float = 0.0
    last_end: str = ""


class TrialClock(NamedTuple):
    """Time that setting the clock does not change.

    Attributes:
        boot_id: The kernel's random name of this boot.
        now_s: Seconds since it.
    """

    boot_id: str
    now_s: float


class StartDecision(NamedTuple):
    """What to do at a start.

    Attributes:
        slot: What to run; ``None`` if nothing can.
        trial: To be written down before; ``None`` for no trial any more.
        reason: Why the current slot doesn't run; empty if it does.
    """

    slot: str | None
    trial: AgentTrial | None
    reason: str = ""


def decide(current: str | None, trial: AgentTrial | None, whole: frozenset[str], clock: TrialClock) -> StartDecision:
    """Decides what a start runs. Pure.

    Args:
        current: What the link names.
        whole: Slots that can be started.
    """
    if trial is not None and trial.slot == current:
        reason = _over(trial, clock) or ("" if current in whole else f"slot {current} is not whole")
        if reason and trial.back in whole:
            return StartDecision(trial.back, None, reason)
        if current in whole:  # there is nothing to go back to, and a bad agent is better than none
            return StartDecision(current, None if reason else _paid(trial, clock))
    if current in whole:
        return StartDecision(current, None)
    other = next((slot for slot in SLOTS if slot in whole and slot != current), None)
    return StartDecision(other, None, f"slot {current} is not whole" if current else "no slot is current")


def _over(trial: AgentTrial, clock: TrialClock) -> str:
    """Why the trial is over, or empty."""
    if is_overdue(trial, clock):
        return f"not healthy within {trial.deadline_s:g} s"
    if trial.spent >= BUDGET:
        return f"ended again and again, last by {trial.last_end or 'an end that nobody saw'}"
    return ""


def is_overdue(trial: AgentTrial, clock: TrialClock) -> bool:
    """Whether the trial's time is over."""
    return trial.boot_id == clock.boot_id and clock.now_s - trial.since_s > trial.deadline_s


def _paid(trial: AgentTrial, clock: TrialClock) -> AgentTrial:
    paid = trial._replace(spent=trial.spent + START_COST)
    if trial.boot_id == clock.boot_id:
        return paid
    return paid._replace(boot_id=clock.boot_id, since_s=clock.now_s)


class Installation:
    """The files under ``/opt/lineside``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def slot(self, slot: str) -> Path:
        """Returns a slot's folder."""
        return self.folder / "slots" / slot

    def python(self, slot: str) -> Path:
        """Returns a slot's Python. Never through ``current``: a process would import from both sides of a flip."""
        return self.slot(slot) / VENV / "bin" / "python"

    def whole(self) -> frozenset[str]:
        """Returns the slots that can be started."""
        return frozenset(
            slot for slot in SLOTS if (self.slot(slot) / DIGEST).is_file() and os.access(self.python(slot), os.X_OK)
        )

    def current(self) -> str | None:
        """Returns the slot that the link names; ``None`` without a link to one of ours."""
        try:
            target = os.readlink(self.folder / CURRENT)  # noqa: PTH115 - Path.readlink raises for what is no link too
        except OSError:
            return None
        return next((slot for slot in SLOTS if target == f"slots/{slot}"), None)

    def make_current(self, slot: str) -> None:
        """Flips the link, and brings it to the disk."""
        temporary = self.folder / f".{CURRENT}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"slots/{slot}")
        temporary.replace(self.folder / CURRENT)
        sync_folder(self.folder)

    def trial(self) -> AgentTrial | None:
        """Reads the trial; one that can't be read is none, and what is current goes on."""
        read = read_json(self.folder / TRIAL)
        try:
            return (
                None
                if read is None
                else AgentTrial(**{name: read[name] for name in AgentTrial._fields if name in read})
            )
        except TypeError as error:
            _log(f"{self.folder / TRIAL} is not a trial: {error}")
            return None

    def begin_trial(self, trial: AgentTrial) -> None:
        """Writes a new trial down; it begins with the flip."""
        write_json(self.folder / TRIAL, trial._asdict())

    def note_trial(self, trial: AgentTrial) -> None:
        """Writes down how the trial goes; what a newer agent has written beside it stays."""
        write_json(self.folder / TRIAL, {**(read_json(self.folder / TRIAL) or {}), **trial._asdict()})

    def end_trial(self) -> None:
        """Removes the trial: what is current stays."""
        (self.folder / TRIAL).unlink(missing_ok=True)
        sync_folder(self.folder)

    def verdict(self) -> dict[str, Any] | None:
        """Reads why the last trial ended badly: ``slot``, ``wish``, ``reason``; ``None`` if none did."""
        return read_json(self.folder / VERDICT)

    def roll_back(self, trial: AgentTrial | None, to: str, reason: str) -> None:
        """Goes to another slot; done again after a kill it ends in the same."""
        slot, wish = (self.current(), "") if trial is None else (trial.slot, trial.wish)
        write_json(self.folder / VERDICT, {"slot": slot, "wish": wish, "to": to, "reason": reason})
        self.make_current(to)
        self.end_trial()


def run(installation: Installation, arguments: list[str], clock: TrialClock) -> int:
    """Replaces this process by the agent of the slot that should run.

    Args:
        arguments: Of ``python -m lineside``.

    Returns:
        1, if nothing can be started.
    """
    whole = installation.whole()
    while True:
        trial = installation.trial()
        decision = decide(installation.current(), trial, whole, clock)
        if decision.slot is None:
            _log(f"{decision.reason}, and no other is whole: install an agent")
            return 1
        slot = _write_down(installation, trial, decision, whole)
        python = str(installation.python(slot))
        try:
            os.execv(python, [python, "-I", "-m", "lineside", *arguments])
        except OSError as error:
            _log(f"{python}: {error}")
            whole -= {slot}


def _write_down(
    installation: Installation, trial: AgentTrial | None, decision: StartDecision, whole: frozenset[str]
) -> str:
    """Writes the decision down and returns the slot to run.

    A start that can't be counted is not made: on a disk that can't be written the old agent runs.
    """
    slot = str(decision.slot)
    try:
        if decision.reason:
            _log(f"{decision.reason}: slot {slot} runs instead")
            installation.roll_back(trial, slot, decision.reason)
        elif decision.trial is not None:
            installation.note_trial(decision.trial)
        elif trial is not None:
            installation.end_trial()
    except OSError as error:
        _log(f"{installation.folder} can't be written: {error}")
        if decision.trial is not None and decision.trial.back in whole:
            return decision.trial.back
    return slot


def ended(installation: Installation, result: str, detail: str) -> int:
    """Notes how an agent on trial ended.

    Args:
        result: ``$SERVICE_RESULT``.
        detail: ``$EXIT_CODE`` and ``$EXIT_STATUS``, for people.

    Returns:
        0.
    """
    trial = installation.trial()
    if trial is not None and trial.slot == installation.current() and trial.spent:
        installation.note_trial(
            trial._replace(spent=trial.spent + END_COSTS.get(result, 0), last_end=f"{result} ({detail})")
        )
    return 0


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads an object; ``None`` if it isn't there, or isn't an object, which is logged."""
    try:
        read = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log(f"{path} can't be read: {error}")
        return None
    if not isinstance(read, dict):
        _log(f"{path} is not an object")
        return None
    return read


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes an object so that after a power cut it is the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **content}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames and removals inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_clock() -> TrialClock:
    """Returns the time since this boot."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return TrialClock(boot_id, time.clock_gettime(time.CLOCK_BOOTTIME))


def _log(text: str) -> None:
    """Writes a line to standard error, which the journal keeps."""
    sys.stderr.write(f"lineside-guard: {text}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> int:
    """Runs the command line; see the module."""
    parser = argparse.ArgumentParser(prog="lineside_guard.py")
    parser.add_argument("--home", type=Path, default=Path(FOLDER), help="default: %(default)s")
    actions = parser.add_subparsers(dest="action", required=True)
    start = actions.add_parser("run", help="start the agent of the slot that should run")
    start.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and what `lineside` is given")
    actions.add_parser("ended", help="note how it ended")
    actions.add_parser("overdue", help="exit 0 if the trial's time is over, 1 if not")
    options = parser.parse_args(arguments)
    installation = Installation(options.home)
    if options.action == "run":
        return run(installation, options.arguments[options.arguments[:1] == ["--"] :], read_clock())
    if options.action == "ended":
        status = f"{os.environ.get('EXIT_CODE', '?')} {os.environ.get('EXIT_STATUS', '?')}"
        return ended(installation, os.environ.get("SERVICE_RESULT", ""), status)
    trial = installation.trial()
    over = trial is not None and trial.slot == installation.current() and is_overdue(trial, read_clock())
    return 0 if over else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
