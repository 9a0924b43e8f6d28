"""The walk from a board that runs to a device in the fleet, on one page.

1. Over the serial line: find the console, log in, set name, network and SSH keys, read the SSH server's own keys.
2. Over SSH, trusting just these keys: the payload, the service, the identity, the bundle, the configuration.
3. Start, look at the board, wait until the hub has met it.

Nothing is remembered here. Each step asks the board, so the command is given again after a kill or a pulled cable.
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

from lineside.console import ProgressMeter, say
from lineside.provision import agent_steps as agents
from lineside.provision import identity_step
from lineside.provision.agent_tree import AgentTree
from lineside.provision.passwords import Passwords
from lineside_agent.config import parse_config
from lineside_boards import profile as profiles
from lineside_boards.first_boot.settings import FirstBootSettings
from lineside_boards.payload import PayloadTarget, agent_toml
from lineside_boards.profile import BoardProfile
from lineside_boards.provision import facts as boards
from lineside_boards.provision import network, settings, ssh
from lineside_boards.provision.console import Console
from lineside_boards.provision.facts import SystemFacts
from lineside_boards.provision.port import BITS_A_BYTE, Port
from lineside_boards.provision.serial_ import SerialShell
from lineside_boards.provision.ssh import Address, SshShell, Trust
from lineside_boards.provision.steps import carry_out
from lineside_runtime.errors import BoardLinkError, LinesideError, ProvisionError

CARRIED_BYTES = 105_000_000
"""A payload with its bundle (docs/guides/boards.md), for saying how long a serial line would take."""

REACH_TRIES, REACH_EVERY_S = 4, 5.0
LOOK_AT_HUB_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the person at the desk gave.

    Attributes:
        options: Of the command.
        settings: Name, user and keys, checked.
        wish: The network.
        keys: Private keys to log in with.
        secrets: Passwords.
        trust: Which host key is the board's, where the serial line doesn't tell.
        hub: Returns whether the hub has met the device and what it knows; ``None`` without a hub.
    """

    options: argparse.Namespace
    settings: FirstBootSettings
    wish: network.Wish
    keys: tuple[Path, ...]
    secrets: Passwords
    trust: Trust
    hub: Callable[[], agents.Joined] | None


class Provisioned(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it.

    Attributes:
        device: Its name.
        board: The profile's name.
        address: Under which it was reached.
        host_keys: Fingerprints that were read over the serial line; empty without one.
        steps_done: How many steps had to be done; 0 if everything was so.
        carried_bytes: Bytes carried by SSH.
        active: Whether the service is active.
        joined: Whether the hub has met it; ``None`` without a hub.
        detected: What ``board detect`` says there.
        findings: What ``board doctor`` says there.
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


def provision(desk: Desk) -> Provisioned:
    """Does all of it.

    Args:
        desk: What was asked for.

    Raises:
        ConsoleError: There is no login on the serial line.
        BoardLinkError: A line to the board broke.
        HostKeyError: The host key isn't the board's.
        LoginError: The board refuses the user.
        ProvisionError: A step doesn't take.
        PayloadError: The payload is for another system.
        DiskFullError: There is no room on the board.
    """
    options = desk.options
    AgentTree.of(options, profiles.load(options.board or "x86"))  # what can't be used is said before anybody logs in
    done = 0
    trust = desk.trust
    if options.serial is not None:
        address, pinned, done = _over_serial(desk)
        trust = dataclasses.replace(trust, pinned=pinned)
    else:
        address = Address.parse(options.ssh)
    with _reach(address, trust, desk, patient=options.serial is not None) as shell:
        say(f"logged in at {address} by SSH")
        return _over_ssh(shell, desk, address, trust.pinned, done)


def _over_serial(desk: Desk) -> tuple[Address, tuple[str, ...], int]:
    """Name, network, keys; returns where SSH finds the board, and by which host keys it is known."""
    options = desk.options
    port = Port(options.serial, baud=options.baud or _baud(options.board))
    try:
        console = Console(port, say)
        console.reach_shell(desk.settings.user, desk.secrets.ask, boot_timeout_s=options.boot_timeout)
        shell = SerialShell(console)
        try:
            found = boards.take(shell)
            say(f"{options.serial}: {found.model or 'a board'}, {found.system}, as {found.user}")
            shell.become_root(desk.secrets.ask)
            shell.calm()
            done = carry_out([settings.hostname_step(desk.settings.hostname)], shell, say)
            done += _set_network(shell, desk, found, port)
            if desk.settings.ssh_keys:
                done += carry_out([settings.key_step(found.user, desk.settings.ssh_keys)], shell, say)
            done += carry_out([settings.server_step()], shell, say)
            now = boards.take(shell)
        finally:
            shell.close()
    finally:
        port.close()
    if shell.faults:
        say(
            f"the line lost bytes {shell.faults} times in {shell.exchanges} exchanges; "
            "each was repeated until it was whole"
        )
    if not now.host_keys:
        raise ProvisionError("the board's SSH server has no keys", action="Run `ssh-keygen -A` there.")
    for key in now.host_keys:
        say(f"host key, read over the serial line: {ssh.fingerprint(key)}")
    address = _address(options.address, found.user, network.address_of(now, desk.wish.interface))
    return address, now.host_keys, done


def _set_network(shell: SerialShell, desk: Desk, found: SystemFacts, port: Port) -> int:
    try:
        return carry_out(network.steps(desk.wish, found), shell, say)
    except ProvisionError:
        size = _payload_bytes(desk.options.payload)
        hours = size * 4 / 3 / (port.baud / BITS_A_BYTE) / 3600
        say(
            f"without a network the agent can't be brought: its {size / 1e6:.0f} MB would take {hours:.1f} hours over "
            f"this line ({port.baud} baud), which lineside doesn't do; `lineside board flash` needs no network at all"
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


def _reach(address: Address, trust: Trust, desk: Desk, *, patient: bool) -> SshShell:
    """A board that was just given a network may need some seconds until it is reached."""
    tries = REACH_TRIES if patient else 1
    while True:
        tries -= 1
        try:
            return ssh.connect(address, trust=trust, keys=desk.keys, password=desk.secrets.ask)
        except BoardLinkError:
            if not tries:
                raise
        time.sleep(REACH_EVERY_S)


def _over_ssh(shell: SshShell, desk: Desk, address: Address, pinned: tuple[str, ...], done: int) -> Provisioned:
    options = desk.options
    found = boards.take(shell)
    fitting = found.profile(options.board)
    if fitting is None:
        raise ProvisionError(
            f"no profile fits this board: {found.model or 'no model'}, {found.architecture}",
            action="Name one with --board, or write one: `lineside board profiles rpi5` shows what stands in it.",
        )
    _check(found, fitting, shell)
    say(f"{found.model or 'a board'}: profile {fitting.name}, {found.system}")
    shell.become_root(desk.secrets.ask)
    tree = AgentTree.of(options, fitting)
    issuer = identity_step.issuer(options, tree)
    present = {"root.json", "ca.pem", "cert.pem", "key.pem"} if issuer.authority else {"root.json"}
    with tempfile.TemporaryDirectory(prefix="lineside-") as scratch, ProgressMeter("carrying") as meter:
        place = agents.InstallPlace(shell, found, meter.of_total)
        parse_config(agent_toml(tree.agent, present).encode(), Path(scratch))
        target = PayloadTarget(python=found.python, architecture=found.architecture)
        payload = tree.payload_for(Path(scratch, "payload"), target)
        steps = [settings.hostname_step(desk.settings.hostname)] if options.serial is None else []
        steps.append(settings.clock_step())
        steps.append(agents.install_step(place, payload, reinstall=options.reinstall))
        steps.append(identity_step.step(issuer))
        if tree.agent.bundle is not None:
            steps.append(agents.bundle_step(place, tree.agent.bundle))
        steps.append(agents.configuration_step(tree.agent, present, say))
        changed = carry_out(steps, shell, say)
    active = agents.start(shell, changed=changed > 0, patience=fitting.board.patience, say=say)
    detected, findings = agents.look_at_board(shell)
    agents.tidy(place)
    joined = _wait_for_hub(desk, options.wait * fitting.board.patience) if active and desk.hub is not None else None
    return Provisioned(
        device=options.name,
        board=fitting.name,
        address=str(address),
        host_keys=tuple(ssh.fingerprint(key) for key in pinned),
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


def _wait_for_hub(desk: Desk, timeout_s: float) -> bool:
    """Whether the hub meets the device in time."""
    if desk.hub is None:
        return False
    say("waiting until the hub meets it")
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            now = desk.hub()
        except LinesideError as error:
            say(f"the hub doesn't say: {error}")
            return False
        if now.up:
            say(f"joined: runs {now.installed or 'no bundle yet'}")
            return True
        time.sleep(LOOK_AT_HUB_S)
    return False
