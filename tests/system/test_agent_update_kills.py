"""``kill -9`` before every single change of the disk that an agent makes while it updates itself.

The agent here is the real runner, machine, slots and guard in real slots; its ``python -m lineside`` is a program that
has nothing else to do. Whatever is cut, the next start runs an agent that is whole, and in the end the new one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from lineside_agent.deployment.self_update.guard import Installation
from lineside_agent.service.install import fill_slot
from tests.agent.deployment.self_update.wheels import BASE_PYTHON, make_payload, tree_wheel
from tests.peers.supervisor import GUARD

PROGRAM = """
import os, shutil, signal, sys, threading
if sys.argv[1:3] == ["agent", "check"]:
    sys.exit(0)
left = int(os.environ.get("KILL_BEFORE", "-1"))

def hook(event, arguments):
    global left
    if left >= 0 and event in ("os.rename", "os.remove", "os.symlink", "os.mkdir", "os.rmdir"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

from pathlib import Path
from lineside_agent.config import UpdateConfig
from lineside_agent.deployment.self_update.slots import AgentSlots
from lineside_agent.deployment.artifacts.agent import AgentArtifact
from lineside_agent.deployment.runner import Deployment, Runner
from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.machine import RESTING
from lineside_link.messages import BundleRef, Desired

state, shelf, digest = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
stop = threading.Event()

class Host:
    def healthy(self): return True
    def quiet(self): return True
    def met_hub(self): return True
    def end(self): stop.set()

def fetch(agent, slot, slots, should_stop):
    shutil.copytree(shelf, slots.begin(slot, agent.sha256), dirs_exist_ok=True)

slots = AgentSlots.around()
agent = AgentArtifact(state, config_path=state, slots=slots, fetch=fetch, host=Host(),
                      report=lambda machine: None, stop=stop, update=UpdateConfig(healthy_s=0.1, deadline_s=600.0))
updater = Runner(Deployment(agent), stop=stop)
wanted = BundleRef(name="lineside-agent", version="2.0", target="g/a.json", sha256=digest)
updater.post(DesiredChanged("group", Desired(epoch=1, gen=1, agent=wanted)))
sys.addaudithook(hook)
thread = threading.Thread(target=updater.run)
thread.start()
while not stop.wait(0.02):
    machine = updater.machine
    if machine.state in RESTING and machine.wanted == wanted:
        stop.set()
thread.join()
print(updater.machine.state, slots.running, slots.reference().version)
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    changes = {"lineside/__main__.py": PROGRAM.encode()}
    old = make_payload(folder / "1", tree_wheel(folder / "w", "1.0", changes))
    make_payload(folder / "2", tree_wheel(folder / "w", "2.0", changes))
    fill_slot(folder / "home", old, python=BASE_PYTHON)
    return folder


def run(home: Path, arguments: list[str], kill_before: int = -1) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KILL_BEFORE": str(kill_before)}
    return subprocess.run(
        [*GUARD, "--home", str(home), "run", "--", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )


@pytest.mark.timeout(1800)
def test_killed_before_any_change_it_ends_in_the_old_or_the_new_agent(shelf: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256((shelf / "2" / "agent.json").read_bytes()).hexdigest()
    kills = 0
    for run_of_the_update in (0, 1):  # the old agent up to the switch; the new one on trial
        for number in range(200):
            folder = tmp_path / f"{run_of_the_update}-{number}"
            shutil.copytree(shelf / "home", folder / "home", symlinks=True)
            (folder / "state").mkdir()
            arguments = [str(folder / "state"), str(shelf / "2"), digest]
            for _ in range(run_of_the_update):
                assert run(folder / "home", arguments).stdout == "switching a 1.0\n"
            killed = run(folder / "home", arguments, kill_before=number)
            home = Installation(folder / "home")
            assert home.current() in home.whole()
            seen = [run(folder / "home", arguments).stdout for _ in range(3 - run_of_the_update)]
            assert seen[-1] == "active b 2.0\n", (number, seen, killed.stderr)
            assert (home.current(), home.trial()) == ("b", None)
            shutil.rmtree(folder)
            if killed.returncode != -signal.SIGKILL:
                break
            kills += 1
        else:
            raise AssertionError("it changes the disk more often than 200 times")
    print(f"{kills} kills, each ended in a whole agent, and then in the new one")
    assert kills > 20
