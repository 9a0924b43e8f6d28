"""``lineside board provision``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.commands.board.prepare import (
    add_agent,
    add_identity,
    add_wifi,
    hostname,
    key_lines,
    option_names,
    wifi,
)
from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import Actions, add_json
from lineside.provision.passwords import Passwords, add_secrets, confirm
from lineside_runtime.errors import ConfigError

if TYPE_CHECKING:
    from lineside.provision.agent_steps import JoinedDevice
    from lineside.provision.provisioning import Provisioned, ProvisionRequest

DEFAULT_KEYS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "provision",
        help="install the agent on a running board, over its serial console or SSH",
        description="Sets up network, SSH key, agent, identity and bundle on a running board, and waits until it has "
        "joined the fleet. Each step checks the board first: after an interruption repeat the command.",
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--serial", metavar="PORT", help="its serial console, such as /dev/ttyUSB0; SSH follows")
    way.add_argument("--ssh", metavar="USER@HOST", help="user@host or user@host:port")
    parser.add_argument("--board", metavar="NAME", help="its profile; default: the one that matches the board")
    _add_login(parser.add_argument_group("login"))
    add_identity(parser).add_argument(
        "--token",
        type=Path,
        metavar="FILE",
        help="instead of --hub: from `lineside hub token`; the board makes its key and requests its certificate",
    )
    network = parser.add_argument_group("network, with --serial; default: unchanged")
    add_wifi(network)
    network.add_argument("--static", metavar="ADDRESS/BITS", help="such as 192.168.1.20/24 (default: DHCP)")
    network.add_argument("--gateway", default="", metavar="ADDRESS")
    network.add_argument("--dns", action="append", default=[], metavar="ADDRESS", help="repeatable")
    network.add_argument("--interface", default="", metavar="NAME", help="default: the first of its kind")
    agent = parser.add_argument_group("the agent")
    add_agent(agent)
    agent.add_argument("--reinstall", action="store_true", help="overwrite another agent on the board")
    agent.add_argument("--wait", type=float, default=120.0, metavar="S", help="for the hub (default: %(default)s s)")
    add_json(parser)
    parser.set_defaults(run=run)


def _add_login(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--user", default="", help="user of the serial console; default: admin")
    add_secrets(group)
    group.add_argument(
        "--ssh-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="such as id_ed25519.pub: installed on the board, and used to log in with the private key beside it; "
        "repeatable; default: yours in ~/.ssh, and ssh-agent's",
    )
    group.add_argument("--host-key", default="", metavar="FINGERPRINT", help="of the board, SHA256:…")
    group.add_argument(
        "--known-hosts", type=Path, default=Path("~/.ssh/known_hosts"), metavar="FILE", help="default: %(default)s"
    )
    group.add_argument("--baud", type=int, metavar="N", help="default: the profile's, or 115200")
    group.add_argument(
        "--address",
        metavar="HOST[:PORT]",
        help="with --serial: SSH address of the board; default: as it reports",
    )
    group.add_argument(
        "--boot-timeout",
        type=float,
        default=300.0,
        metavar="S",
        help="for a board that boots or is silent (default: %(default)s s)",
    )


def run(options: argparse.Namespace) -> int:
    with needs("boards"):
        from lineside.provision.provisioning import provision
    made = provision(_request(options))
    if options.json:
        print_json(made)
    else:
        show("\n".join(_page(made)))
    return 1 if made.joined is False else 0


def _page(made: Provisioned) -> list[str]:
    state = "its service is active" if made.active else "its service starts at the next boot"
    lines = [f"{made.device}: at {made.address}, {made.carried_bytes / 1e6:.0f} MB copied, {state}"]
    lines += [f"{one['level']:>7}  {one['what']}\n{'':>7}  -> {one['action']}" for one in made.findings]
    if made.joined is False:
        lines.append(
            "it is not connected to the hub yet: does the hub run, was its broker sent SIGHUP, does the board reach it?"
        )
    return lines


def _request(options: argparse.Namespace) -> ProvisionRequest:
    from lineside.provision.provisioning import ProvisionRequest
    from lineside_boards.first_boot.settings import FirstBootSettings
    from lineside_boards.provision.network import NetworkSettings, StaticAddress
    from lineside_boards.provision.ssh_shell import Trust

    network = ("wifi", "static", "gateway", "dns", "interface")
    if options.serial is None and (given := [name for name in network if getattr(options, name)]):
        action = "Leave it out: a board that SSH reaches has a network. Or give --serial."
        raise ConfigError(f"--{given[0]} with --ssh", expected="a network with --serial only", action=action)
    static = None
    if options.static:
        static = StaticAddress(address=options.static, gateway=options.gateway, dns=tuple(options.dns)).checked()
    elif options.gateway or options.dns:
        name = "--gateway" if options.gateway else "--dns"
        action = "Give --static too, or leave it out: DHCP gives the board its gateway and name servers."
        raise ConfigError(f"{name} without --static", expected="the board's address by --static", action=action)
    texts, private = _keys(options)
    settings = FirstBootSettings(hostname=hostname(options.name), user=options.user or "admin", ssh_keys=texts)
    with option_names():
        settings.checked(root=True)
    return ProvisionRequest(
        options=options,
        settings=settings,
        network=NetworkSettings(wifi=wifi(options), static=static, interface=options.interface),
        keys=private,
        secrets=Passwords(options),
        trust=Trust(
            fingerprint=options.host_key,
            known_hosts=options.known_hosts,
            confirm=confirm if sys.stdin.isatty() else None,
        ),
        hub=_hub(options),
    )


def _keys(options: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Returns the public keys to install and the private keys to log in with; ssh-agent's are tried anyway."""
    given = list(options.ssh_key)
    if not given and options.serial is not None:
        given = [path for name in DEFAULT_KEYS if (path := Path("~/.ssh", name).expanduser()).is_file()][:1]
        inform(f"SSH key: {given[0]}" if given else "no SSH key of yours was found: SSH will ask for the password")
    texts: list[str] = []
    private: list[Path] = []
    for path in given:
        public = path if path.suffix == ".pub" else path.with_name(f"{path.name}.pub")
        own = public.with_suffix("")
        if own.is_file():
            private.append(own)
        texts += key_lines(public)
    return tuple(texts), tuple(private)


def _hub(options: argparse.Namespace) -> Callable[[], JoinedDevice] | None:
    if options.hub is None or options.identity is not None:
        return None

    def look() -> JoinedDevice:
        from lineside.provision.agent_steps import JoinedDevice
        from lineside_hub.fleet.listing import list_devices

        for device in list_devices(options.hub):
            if device.name == options.name:
                return JoinedDevice(up=device.up, installed=device.installed or "", results=device.results or 0)
        return JoinedDevice()

    return look
