"""From a running board to a device in the fleet.

1. Over the serial line: find the console, log in, set name, network and SSH keys, read the host keys.
2. Over SSH, trusting only these host keys: payload, service, identity, bundle, configuration.
3. Start, examine the board, wait until it is connected to the hub.

Nothing is stored here. Each step asks the board, so the command is repeated after a kill or a pulled cable.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from lineside.console import ProgressMeter, inform
from lineside.provision import agent_steps as agents
from lineside.provision import identity_step
from lineside.provision.agent_tree import AgentTree
from lineside.provision.passwords import Passwords
from lineside_agent.config import parse_config
from lineside_boards import profile as profiles
from lineside_boards.agent_files import SystemTarget, agent_toml
from lineside_boards.errors import BoardLinkError, ProvisionError
from lineside_boards.first_boot.settings import FirstBootSettings
from lineside_boards.profile import BoardProfile
from lineside_boards.provision import ssh_shell
from lineside_boards.provision import system_facts as boards
from lineside_boards.provision import system_steps as settings
from lineside_boards.provision.console import Console
from lineside_boards.provision.network import NetworkSettings, address_of
from lineside_boards.provision.network import steps as network_steps
from lineside_boards.provision.serial_port import BITS_A_BYTE, SerialPort
from lineside_boards.provision.serial_shell import SerialShell
from lineside_boards.provision.ssh_shell import Address, SshShell, Trust
from lineside_boards.provision.steps import carry_out
from lineside_boards.provision.system_facts import SystemFacts
from lineside_runtime.errors import LinesideError

CARRIED_BYTES = 108_000_000
"""A payload with the shipped bundles (`python -m benchmarks boards`), for the estimated time over a serial line."""

REACH_TRIES, REACH_EVERY_S = 4, 5.0
LOOK_AT_HUB_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionRequest:
    """What the user asks for.

    Attributes:
        settings: Name, user and keys, checked.
        network: Desired settings of the board's network.
        keys: Private keys to log in with.
        trust: Which host keys are trusted, without those of the serial line.
        hub: Returns what the hub knows of the device; ``None`` without a hub.
    """

    options: argparse.Namespace
    settings: FirstBootSettings
    network: NetworkSettings
    keys: tuple[Path, ...]
    secrets: Passwords
    trust: Trust
    hub: Callable[[], agents.JoinedDevice] | None


class Provisioned(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `provision`.

    Attributes:
        board: The profile's name.
        host_keys: Fingerprints that were read over the serial line; empty without one.
        steps_done: Steps that had to be done; 0 if the board was as desired.
        carried_bytes: Bytes copied over SSH.
        active: Whether the service is active.
        joined: Whether it is connected to the hub; ``None`` without a hub.
        detected: Answer of ``board detect`` there.
        findings: Of ``board doctor`` there.
    """

    device: str
    board: str
    address: str
    host_keys: tuple[str, ...]
    steps_done: int
    carried_bytes: int
    active: bool
    joined: bool | None
    detected: dict[str, Any]
    findings: list[dict[str, Any]]


def provision(request: ProvisionRequest) -> Provisioned:
    """Provisions a board.

    Args:
        request: What the user asks for.

    Raises:
        ConsoleError: The serial line has no login.
        BoardLinkError: A connection to the board broke.
        HostKeyError: The host key is not trusted.
        LoginError: The board refuses the user.
        ProvisionError: A step has no effect.
        PayloadError: The payload is for another system.
        DiskFullError: There is no space on the board.
    """
    options = request.options
    AgentTree.of(options, profiles.load(options.board or "x86"))  # invalid options are reported before the login
    done = 0
    trust = request.trust
    if options.serial is not None:
        address, pinned, done = _over_serial(request)
        trust = dataclasses.replace(trust, pinned=pinned)
    else:
        address = Address.parse(options.ssh)
    with _reach(address, trust, request, patient=options.serial is not None) as shell:
        inform(f"logged in at {address} by SSH")
        return _over_ssh(shell, request, address, trust.pinned, done)


def _over_serial(request: ProvisionRequest) -> tuple[Address, tuple[str, ...], int]:
    """Sets name, network and keys; returns SSH address, host keys and number of steps done."""
    options = request.options
    port = SerialPort(options.serial, baud=options.baud or _baud(options.board))
    try:
        console = Console(port, inform)
        console.reach_shell(request.settings.user, request.secrets.ask, boot_timeout_s=options.boot_timeout)
        shell = SerialShell(console)
        try:
            found = boards.take(shell)
            inform(f"{options.serial}: {found.model or 'a board'}, {found.system}, as {found.user}")
            shell.become_root(request.secrets.ask)
            shell.calm()
            done = carry_out([settings.hostname_step(request.settings.hostname)], shell, inform)
            done += _set_network(shell, request, found, port)
            if request.settings.ssh_keys:
                done += carry_out([settings.key_step(found.user, request.settings.ssh_keys)], shell, inform)
            done += carry_out([settings.server_step()], shell, inform)
            now = boards.take(shell)
        finally:
            shell.close()
    finally:
        port.close()
    if shell.faults:
        inform(
            f"the line lost bytes {shell.faults} times in {shell.exchanges} exchanges; "
            "each was repeated until it was whole"
        )
    if not now.host_keys:
        raise ProvisionError("the board's SSH server has no keys", action="Run `ssh-keygen -A` there.")
    for key in now.host_keys:
        inform(f"host key, read over the serial line: {ssh_shell.fingerprint(key)}")
    address = _address(options.address, found.user, address_of(now, request.network.interface))
    return address, now.host_keys, done


def _set_network(shell: SerialShell, request: ProvisionRequest, found: SystemFacts, port: SerialPort) -> int:
    try:
        return carry_out(network_steps(request.network, found), shell, inform)
    except ProvisionError:
        size = _payload_bytes(request.options.payload)
        hours = size * 4 / 3 / (port.baud / BITS_A_BYTE) / 3600
        inform(
            f"without a network the agent can't be copied: its {size / 1e6:.0f} MB would take {hours:.1f} hours over "
            f"this line ({port.baud} baud); `lineside board flash` needs no network"
        )
        raise


def _payload_bytes(folder: Path | None) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.whl")) if folder is not None else CARRIED_BYTES


def _baud(board: str | None) -> int:
    return profiles.load(board).console.baud if board is not None else 115200


def _address(given: str | None, user: str, own: str) -> Address:
    if given is None:
        return Address(user, own)
    return Address.parse(f"{user}@{given}")


def _reach(address: Address, trust: Trust, request: ProvisionRequest, *, patient: bool) -> SshShell:
    """A board that just got its network may be unreachable for some seconds."""
    tries = REACH_TRIES if patient else 1
    while True:
        tries -= 1
        try:
            return ssh_shell.connect(address, trust=trust, keys=request.keys, password=request.secrets.ask)
        except BoardLinkError:
            if not tries:
                raise
        time.sleep(REACH_EVERY_S)


def _over_ssh(
    shell: SshShell, request: ProvisionRequest, address: Address, pinned: tuple[str, ...], done: int
) -> Provisioned:
    options = request.options
    found = boards.take(shell)
    fitting = found.profile(options.board)
    if fitting is None:
        raise ProvisionError(
            f"no profile fits this board: {found.model or 'no model'}, {found.architecture}",
            action="Name one with --board, or write one: `lineside board profiles rpi5` shows what stands in it.",
        )
    _check(found, fitting, shell)
    inform(f"{found.model or 'a board'}: profile {fitting.name}, {found.system}")
    shell.become_root(request.secrets.ask)
    tree = AgentTree.of(options, fitting)
    issuer = identity_step.issuer(options, tree)
    present = {"root.json", "ca.pem", "cert.pem", "key.pem"} if issuer.authority else {"root.json"}
    with tempfile.TemporaryDirectory(prefix="lineside-") as scratch, ProgressMeter("carrying") as meter:
        place = agents.InstallPlace(shell, found, meter.of_total)
        parse_config(agent_toml(tree.agent, present).encode(), Path(scratch))
        target = SystemTarget(python=found.python, architecture=found.architecture)
        payload = tree.payload_for(Path(scratch, "payload"), target)
        steps = [settings.hostname_step(request.settings.hostname)] if options.serial is None else []
        steps.append(settings.clock_step())
        steps.append(agents.install_step(place, payload, reinstall=options.reinstall))
        steps.append(identity_step.step(issuer))
        if tree.agent.bundle is not None:
            steps.append(agents.bundle_step(place, tree.agent.bundle, inform))
        steps.append(agents.configuration_step(tree.agent, present, inform))
        changed = carry_out(steps, shell, inform)
    active = agents.start(shell, changed=changed > 0, patience=fitting.board.patience, say=inform)
    detected, findings = agents.look_at_board(shell)
    agents.tidy(place)
    wait_s = options.wait * fitting.board.patience
    joined = _wait_for_hub(request.hub, wait_s) if active and request.hub is not None else None
    return Provisioned(
        device=options.name,
        board=fitting.name,
        address=str(address),
        host_keys=tuple(ssh_shell.fingerprint(key) for key in pinned),
        steps_done=done + changed,
        carried_bytes=place.carried,
        active=active,
        joined=joined,
        detected=detected,
        findings=findings,
    )


def _check(found: SystemFacts, fitting: BoardProfile, shell: SshShell) -> None:
    if not found.python:
        raise ProvisionError(f"{shell.where} has no /usr/bin/python3", action="Run there: apt install python3.")
    if fitting.board.architecture != found.architecture:
        raise ProvisionError(
            f"{shell.where} isn't a {fitting.board.title}",
            expected=fitting.board.architecture,
            actual=found.architecture,
            action="Name the board that it is with --board, or leave it out.",
        )


def _wait_for_hub(hub: Callable[[], agents.JoinedDevice], timeout_s: float) -> bool:
    """Returns whether the device is connected to the hub in time."""
    inform("waiting until the device is connected to the hub")
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            now = hub()
        except LinesideError as error:
            inform(f"the hub doesn't say: {error}")
            return False
        if now.up:
            inform(f"joined: runs {now.installed or 'no bundle yet'}")
            return True
        time.sleep(LOOK_AT_HUB_S)
    return False
