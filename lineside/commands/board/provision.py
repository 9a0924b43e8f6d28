"""``lineside board provision``: a board that already runs joins the fleet, over its serial console or SSH."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.commands.board.prepare import HUB_VARIABLE, add_agent, add_wifi, hostname, wifi
from lineside.commands.board.profiles import Actions
from lineside.console import print_json, say, show
from lineside.extras import needs
from lineside.options import add_json
from lineside.passphrases import add_passphrase
from lineside.provision.passwords import Passwords, add_secrets, confirm
from lineside_runtime.errors import InputNotFoundError

if TYPE_CHECKING:
    from lineside.provision.agent_steps import JoinedDevice
    from lineside.provision.provisioning import Provisioned, ProvisionRequest

DEFAULT_KEYS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")


def add_actions(actions: Actions[argparse.ArgumentParser]) -> None:
    """Adds ``provision``."""
    parser = actions.add_parser(
        "provision",
        help="bring the agent onto a board that already runs, over its serial console or SSH",
        description="Brings network, SSH key, agent, identity and bundle onto a board that runs, and waits until it "
        "has joined. Each step asks the board first, so give the command again after a break: it goes on.",
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--serial", metavar="PORT", help="its serial console, such as /dev/ttyUSB0; SSH follows by itself")
    way.add_argument("--ssh", metavar="USER@HOST", help="user@host or user@host:port")
    parser.add_argument("--board", metavar="NAME", help="its profile; default: the one that fits what the board says")
    _add_login(parser.add_argument_group("the way in"))
    _add_identity(parser)
    network = parser.add_argument_group("its network, with --serial; without these its own settings stay")
    add_wifi(network)
    network.add_argument("--static", metavar="ADDRESS/BITS", help="a fixed address, such as 192.168.1.20/24; else DHCP")
    network.add_argument("--gateway", default="", metavar="ADDRESS")
    network.add_argument("--dns", action="append", default=[], metavar="ADDRESS", help="repeatable")
    network.add_argument("--interface", default="", metavar="NAME", help="default: the first of its kind")
    agent = parser.add_argument_group("the agent")
    add_agent(agent)
    agent.add_argument("--reinstall", action="store_true", help="overwrite another agent that the board has")
    agent.add_argument("--wait", type=float, default=120.0, metavar="S", help="for the hub (default: %(default)s s)")
    add_json(parser)
    parser.set_defaults(run=run)


def _add_login(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--user", default="", help="who logs in at the serial console; default: admin")
    add_secrets(group)
    group.add_argument(
        "--ssh-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="such as id_ed25519.pub: is let in on the board, and the private key beside it logs in; repeatable; "
        "default: yours in ~/.ssh, and ssh-agent's",
    )
    group.add_argument(
        "--host-key", default="", metavar="FINGERPRINT", help="of the board, SHA256:…, as it says itself"
    )
    group.add_argument(
        "--known-hosts", type=Path, default=Path("~/.ssh/known_hosts"), metavar="FILE", help="default: %(default)s"
    )
    group.add_argument("--baud", type=int, metavar="N", help="default: the profile's, or 115200")
    group.add_argument(
        "--address", metavar="HOST[:PORT]", help="with --serial: where SSH reaches the board; default: what it says"
    )
    group.add_argument(
        "--boot-timeout",
        type=float,
        default=300.0,
        metavar="S",
        help="for a board that starts, or says nothing yet (default: %(default)s s)",
    )


def _add_identity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who the device is")
    group.add_argument("--name", required=True, help="name of the device, also in the network")
    group.add_argument("--group", required=True, help="the group that it belongs to")
    group.add_argument("--broker", metavar="URL", help="mqtts://host:8883 as the board reaches it; default: the hub's")
    group.add_argument(
        "--hub",
        type=Path,
        metavar="DIR",
        default=os.environ.get(HUB_VARIABLE),
        help=f"the hub's folder, which issues the identity (or set {HUB_VARIABLE})",
    )
    add_passphrase(parser)
    group.add_argument("--site", help="name of the site; default: the hub's")
    instead = group.add_mutually_exclusive_group()
    instead.add_argument(
        "--token",
        type=Path,
        metavar="FILE",
        help="from `lineside hub token`: the board makes its own key and asks for its certificate itself",
    )
    instead.add_argument(
        "--identity",
        type=Path,
        metavar="DIR",
        help="a folder with root.json, ca.pem, cert.pem, key.pem; needs --broker and --site",
    )


def run(options: argparse.Namespace) -> int:
    """Provisions a board."""
    with needs("boards"):
        from lineside.provision.provisioning import provision
    made = provision(_desk(options))
    if options.json:
        print_json(made)
    else:
        show("\n".join(_page(made)))
    return 1 if made.joined is False else 0


def _page(made: Provisioned) -> list[str]:
    state = "its service is active" if made.active else "its service starts with the board's next start"
    lines = [f"{made.device}: at {made.address}, {made.carried_bytes / 1e6:.0f} MB carried, {state}"]
    lines += [f"{one['level']:>7}  {one['what']}\n{'':>7}  -> {one['action']}" for one in made.findings]
    if made.joined is False:
        lines.append(
            "the hub hasn't met it yet: does the hub run, was its broker sent SIGHUP, does the board reach it?"
        )
    return lines


def _desk(options: argparse.Namespace) -> ProvisionRequest:
    from lineside.provision.provisioning import ProvisionRequest
    from lineside_boards.first_boot.settings import FirstBootSettings
    from lineside_boards.provision.network import NetworkSettings, StaticAddress
    from lineside_boards.provision.ssh_shell import Trust

    static = None
    if options.static:
        static = StaticAddress(address=options.static, gateway=options.gateway, dns=tuple(options.dns)).checked()
    texts, private = _keys(options)
    return ProvisionRequest(
        options=options,
        settings=FirstBootSettings(
            hostname=hostname(options.name), user=options.user or "admin", ssh_keys=texts
        ).checked(root=True),
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
    """Public keys to let in, and private ones to log in with; those of ssh-agent are tried by themselves."""
    given = list(options.ssh_key)
    if not given and options.serial is not None:
        given = [path for name in DEFAULT_KEYS if (path := Path("~/.ssh", name).expanduser()).is_file()][:1]
        say(f"SSH key: {given[0]}" if given else "no SSH key of yours was found: SSH will want the password")
    texts: list[str] = []
    private: list[Path] = []
    for path in given:
        public = path if path.suffix == ".pub" else path.with_name(f"{path.name}.pub")
        own = public.with_suffix("")
        if own.is_file():
            private.append(own)
        try:
            texts += [line.strip() for line in public.read_text().splitlines() if line.strip()]
        except OSError as error:
            raise InputNotFoundError(f"{public}: {error.strerror}") from error
    return tuple(texts), tuple(private)


def _hub(options: argparse.Namespace) -> Callable[[], JoinedDevice] | None:
    if options.hub is None or options.identity is not None:
        return None

    def look() -> JoinedDevice:
        from lineside.provision.agent_steps import JoinedDevice
        from lineside_hub.fleet.listing import list_devices

        for device in list_devices(options.hub):
            if device.name == options.name:
                return JoinedDevice(up=device.up, installed=device.installed or "", results=device.results)
        return JoinedDevice()

    return look
