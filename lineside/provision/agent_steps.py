"""Steps that install the agent on a board over SSH: payload, service, bundle, configuration, start.

The board needs only the system's Python 3: `lineside agent install-service` runs there from the payload's unpacked
wheels, before the slot exists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import msgspec

from lineside_agent.deployment.self_update import guard
from lineside_agent.deployment.self_update.payload import Payload
from lineside_agent.service.install import COMMAND, RECORD
from lineside_boards import agent_files as boards_payload
from lineside_boards.agent_files import CONFIGURATION, DROP_IN, FACTORY
from lineside_boards.errors import ProvisionError
from lineside_boards.provision.shell import Shell
from lineside_boards.provision.ssh_shell import SshShell
from lineside_boards.provision.steps import ProvisionStep, Say
from lineside_boards.provision.system_facts import SystemFacts
from lineside_boards.provision.transfer import copy_folder
from lineside_runtime.errors import DiskFullError
from lineside_runtime.progress import CountListener

CACHE = ".cache/lineside"
UNIT = "lineside-agent"
INSTALL_S = 1800.0
"""pip is slow on an SD card and on an emulated board."""

UNPACKED = 2.5
"""Installed bytes for each copied byte: 108 MB became 261 MB; the unpacked wheels come on top."""

_FIRST = ("lineside", "msgspec", "numpy", "packaging", "typing_extensions")
"""What `install-service` imports."""

_SLOT = f"""
cd {guard.FOLDER}/current 2>/dev/null || exit 0
[ -s /{RECORD} ] && cat {guard.DIGEST} 2>/dev/null
"""

_ZOO = f"{guard.FOLDER}/{guard.CURRENT}/{guard.VENV}/lib/python3*/site-packages/lineside_models/zoo"
"""Shipped bundles of the agent on the board, for a shell."""


@dataclasses.dataclass(slots=True)
class InstallPlace:
    """The board that gets a payload.

    Attributes:
        progress: Called with the bytes that are there and the bytes in all.
        carried: Bytes that were copied.
    """

    shell: SshShell
    facts: SystemFacts
    progress: CountListener
    carried: int = 0

    @property
    def cache(self) -> str:
        """Cache folder of the login user."""
        return f"{self.facts.home}/{CACHE}"

    def carry(self, folder: Path, name: str) -> str:
        """Copies a folder into the cache; returns its path there."""
        into = f"{self.cache}/{name}"
        free = self.facts.home_free_bytes
        carried, _ = copy_folder(self.shell, folder, into=into, free_bytes=free, progress=self.progress)
        self.carried += carried
        return into


def install_step(place: InstallPlace, payload: Payload, *, reinstall: bool) -> ProvisionStep:
    """Returns the step that installs slot, units and guard; ``reinstall`` overwrites another agent."""
    manifest = payload.manifest

    def look(shell: Shell) -> str:
        there = shell.ask(_SLOT, root=True).strip()
        if there and there != payload.digest and not reinstall:
            raise ProvisionError(
                "another agent is installed on the board",
                expected=f"none, or {payload.digest[:16]} ({manifest.version})",
                actual=there[:16],
                action="Update it with `lineside push --agent`, or overwrite it with --reinstall.",
            )
        return "" if there == payload.digest else there or "no agent"

    def do(shell: Shell) -> None:
        needed = int(UNPACKED * manifest.size_bytes)
        if place.facts.free_bytes < needed:
            raise DiskFullError(
                f"the board has {place.facts.free_bytes / 1e6:.0f} MB free in /opt",
                needed_bytes=needed,
                action="Free some space on the board, and run the same command again.",
            )
        folder = place.carry(payload.path, "payload")
        answer = shell.run(_install_script(place.cache, folder, payload), root=True, timeout_s=INSTALL_S)
        if answer.code:
            raise shell.failure(answer, "agent install-service")

    name = f"agent {manifest.version} for {manifest.tag} is installed"
    return ProvisionStep(name=name, look=look, do=do)


def _install_script(cache: str, folder: str, payload: Payload) -> str:
    names = [Path(name).name for name in payload.manifest.files]
    first = [name for name in names if name.split("-")[0].lower() in _FIRST]
    boot, lock = shlex.quote(f"{cache}/boot"), shlex.quote(f"{cache}/lock")
    unpack = "\n".join(
        f"/usr/bin/python3 -I -m zipfile -e {shlex.quote(f'{folder}/wheels/{name}')} {boot}" for name in first
    )
    return f"""# agent install-service
set -e
exec 9> {lock}
flock -n 9 || {{ echo "another provisioning is still at work on this board"; exit 75; }}
rm -rf {boot} && mkdir {boot}
trap 'rm -rf {boot}' EXIT
{unpack}
systemctl stop {UNIT} 2>/dev/null || true
cd {boot}
/usr/bin/python3 -s -m lineside agent install-service --payload {shlex.quote(folder)} --no-start
"""


def bundle_step(place: InstallPlace, bundle: Path, say: Say) -> ProvisionStep:
    """Returns the step that installs the first bundle; one that the agent's wheel has brought is not carried again."""
    files = {path.relative_to(bundle).as_posix(): path for path in sorted(bundle.rglob("*")) if path.is_file()}
    lines = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in files.items())
    target = f"/{FACTORY}"

    def holds(shell: Shell, folder: str) -> bool:
        script = f"cd {folder} && sha256sum --quiet -c - && find . -type f | wc -l"
        answer = shell.run(script, root=True, data=lines.encode(), timeout_s=300.0)
        return answer.code == 0 and answer.text.split()[-1:] == [str(len(files))]

    def look(shell: Shell) -> str:
        return "" if holds(shell, target) else "missing or different"

    def do(shell: Shell) -> None:
        source = f"{_ZOO}/{shlex.quote(bundle.name)}"
        if holds(shell, source):
            say(f"{bundle.name} is on the board with the agent: it is not carried")
        else:
            source = shlex.quote(place.carry(bundle, "bundle"))
        new = f"{target}.new"
        shell.ask(
            f"# copy the bundle\nset -e\nrm -rf {new} && cp -r {source} {new} && chmod -R a+rX,go-w {new} && sync\n"
            f"rm -rf {target} && mv {new} {target}",
            root=True,
            timeout_s=300.0,
        )

    return ProvisionStep(name=f"the first bundle is {bundle.name}", look=look, do=do)


def configuration_step(agent: boards_payload.AgentSetup, present: set[str], say: Say) -> ProvisionStep:
    """Returns the step that writes ``agent.toml``; another one is kept beside it."""
    wanted = {f"/{CONFIGURATION}/agent.toml": boards_payload.agent_toml(agent, present).encode()}
    if agent.patience > 1:
        wanted[f"/{DROP_IN}"] = boards_payload.drop_in(agent.patience).encode()

    def look(shell: Shell) -> str:
        differ = [path for path, data in wanted.items() if shell.digest(path) != hashlib.sha256(data).hexdigest()]
        return f"{', '.join(differ)} differ{'s' * (len(differ) == 1)}" if differ else ""

    def do(shell: Shell) -> None:
        for path, data in wanted.items():
            if shell.digest(path) not in ("", hashlib.sha256(data).hexdigest()):
                shell.ask(f"cp -p {path} {path}.before", root=True)
                say(f"{path} was another one: it is kept as {path}.before")
            shell.write(path, data)

    return ProvisionStep(name="agent.toml is written", look=look, do=do)


def start(shell: Shell, *, changed: bool, patience: int, say: Say) -> bool:
    """Enables and starts the service, and waits until it has inspected its first frame.

    Args:
        changed: Whether a running agent must read something again.
        patience: Factor of the timeout.

    Returns:
        Whether it is active; ``False`` without a running systemd, where the next boot starts it.

    Raises:
        ProvisionError: It cannot be started, or does not stay up; its last lines are in the message.
    """
    answer = shell.run(f"/{COMMAND} agent install-service", root=True, timeout_s=INSTALL_S)
    if answer.code:
        raise shell.failure(answer, "agent install-service")
    if shell.run("[ -d /run/systemd/system ]").code:
        say("systemd doesn't run on this board: the agent starts at the next boot")
        return False
    if changed:
        shell.ask(f"systemctl daemon-reload && systemctl restart --no-block {UNIT}", root=True)
    say("waiting for the agent's first inspection")
    timeout_s = 200 * patience
    answer = shell.run(
        f"n=0; while ! systemctl is-active --quiet {UNIT}; do\n"
        f"n=$((n + 1)); [ $n -gt {timeout_s} ] && exit 1; sleep 1; done",
        timeout_s=2 * timeout_s + 30.0,
    )
    if answer.code:
        tail = shell.run("journalctl --namespace=lineside -n 6 -o cat --no-pager", root=True).text
        raise ProvisionError(
            f"the agent isn't active after {timeout_s} s: {' | '.join(tail.strip().splitlines())[-400:]}",
            action="`journalctl --namespace=lineside` on the board says why; mend it and run the same command again.",
        )
    return True


def look_at_board(shell: Shell) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the answers of ``board detect`` and ``board doctor`` there.

    Raises:
        ProvisionError: The agent's command does not run there.
    """
    answers: list[dict[str, Any]] = []
    for action in ("detect", "doctor"):
        answer = shell.run(f"/{COMMAND} board {action} --json 2>/dev/null", root=True, timeout_s=300.0)
        try:
            answers.append(json.loads(answer.text.strip().splitlines()[-1]))
        except (ValueError, IndexError) as error:
            raise ProvisionError(
                f"board {action} gave no answer there", actual=f"{answer.code}: {answer.text[-200:]}"
            ) from error
    return answers[0], answers[1]["findings"]


def tidy(place: InstallPlace) -> None:
    """Removes the copied payload."""
    cache = shlex.quote(place.cache)
    place.shell.ask(f"rm -rf {cache}/payload {cache}/bundle {cache}/lock")


class JoinedDevice(msgspec.Struct, frozen=True, kw_only=True):
    """The device as the hub sees it: connection, bundle and number of results."""

    up: bool = False
    installed: str = ""
    results: int = 0
