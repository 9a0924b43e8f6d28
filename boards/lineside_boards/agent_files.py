"""Files of the agent on a board beside its program: configuration, identity, root of trust, first bundle.

::

    /etc/lineside/agent.toml, root.json, ca.pem, cert.pem, key.pem
    /opt/lineside/factory/             bundle that runs until one is pushed
    /opt/lineside/slots/a/             the program, installed by the caller (`lineside agent install-service --root`)
    lineside-prepare.service           creates the agent's user before its first start

The caller passes the identity that a hub issued, and checks the configuration with the agent's reader.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import msgspec

from lineside_boards.errors import PayloadError
from lineside_boards.image.ext4 import Ext4Volume

CONFIGURATION = "etc/lineside"
FACTORY = "opt/lineside/factory"
STATE = "/var/lib/lineside"

_UNIT = """\
# systemd-sysusers does not run by itself on a system whose /etc was up to date when the image was edited.
[Unit]
Description=lineside: user and folders of the agent
Before=lineside-agent.service
After=systemd-tmpfiles-setup.service
RequiresMountsFor=/opt /etc

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/usr/bin/systemd-sysusers lineside.conf
ExecStart=-/usr/bin/systemd-tmpfiles --create lineside.conf

[Install]
WantedBy=multi-user.target
"""
_UNIT_NAME = "lineside-prepare.service"

_PATIENCE = """\
# An emulator is many times slower than the board.
[Service]
TimeoutStartSec={start_s}
WatchdogSec={watchdog_s}
"""
DROP_IN = "etc/systemd/system/lineside-agent.service.d/emulator.conf"
_START_S, _WATCHDOG_S = 180, 30
"""As in the agent's own unit."""

_MACHINES = {0xB7: "aarch64", 0x3E: "x86_64", 0x28: "armv7l"}
"""``e_machine`` of elf(5)."""


class SystemTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The system that runs the agent: Python, such as ``3.13``, and architecture, such as ``aarch64``."""

    python: str
    architecture: str


class IdentityFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a device's identity and of its root of trust.

    Attributes:
        root: The update repository's ``root.json``.
        ca: Certificate of the authority; ``None`` for a broker without TLS.
    """

    root: Path
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class AgentSetup(msgspec.Struct, frozen=True, kw_only=True):
    """Content of ``agent.toml``.

    Attributes:
        more: Other tables, such as ``[trigger]``.
        bundle: Folder of the first bundle, or ``None``.
        patience: Factor of the start timeout; above 1 for an emulator.
    """

    device: str
    group: str
    url: str
    site: str
    camera: dict[str, Any]
    more: dict[str, Any] = {}
    bundle: Path | None = None
    patience: int = 1


def examine(root: Ext4Volume, *, expected: SystemTarget) -> SystemTarget:
    """Finds the Python and the architecture of an image.

    Args:
        expected: By the board's profile.

    Raises:
        PayloadError: It has no Python 3, or another architecture.
    """
    versions = [match[1] for name in root.entries("/usr/bin") if (match := re.fullmatch(r"python(3\.\d+)", name))]
    if not versions:
        raise PayloadError(
            "the image has no Python 3 in /usr/bin", action="Install python3 in it, or take the maker's own image."
        )
    version = expected.python if expected.python in versions else max(versions, key=lambda text: int(text[2:]))
    machine = int.from_bytes(root.read(f"/usr/bin/python{version}")[18:20], "little")
    found = SystemTarget(python=version, architecture=_MACHINES.get(machine, f"ELF machine {machine:#x}"))
    if found.architecture != expected.architecture:
        raise PayloadError(
            "the image is for another processor",
            expected=expected.architecture,
            actual=found.architecture,
            action="Take the image for this board, of 64 bits, or name the board that it is for with --board.",
        )
    return found


def lay_out(tree: Path, agent: AgentSetup, identity: IdentityFiles) -> Path:
    """Writes configuration, identity and bundle into a tree that is copied into an image.

    Returns:
        The path of ``agent.toml`` in the tree.

    Raises:
        PayloadError: The broker uses TLS and there is no certificate.
    """
    home = tree / CONFIGURATION
    home.mkdir(parents=True, exist_ok=True)
    files = {
        "root.json": identity.root,
        "ca.pem": identity.ca,
        "cert.pem": identity.certificate,
        "key.pem": identity.key,
    }
    present = {name: path for name, path in files.items() if path is not None}
    if agent.url.startswith("mqtts:") and len(present) < len(files):
        raise PayloadError(f"{agent.url} needs a certificate", expected=", ".join(files), actual=", ".join(present))
    for name, path in present.items():
        (home / name).touch(mode=0o640)
        (home / name).write_bytes(path.read_bytes())
        (home / name).chmod(0o640 if name == "key.pem" else 0o644)
    if agent.bundle is not None:
        shutil.copytree(agent.bundle, tree / FACTORY)
    (home / "agent.toml").write_text(agent_toml(agent, present))
    _unit(tree)
    if agent.patience > 1:
        (tree / DROP_IN).parent.mkdir(parents=True)
        (tree / DROP_IN).write_text(drop_in(agent.patience))
    return home / "agent.toml"


def agent_toml(agent: AgentSetup, present: Container[str]) -> str:
    """Returns the text of ``agent.toml``; ``present`` are the names of the identity's files beside it."""
    import tomli_w  # the host's alone

    link: dict[str, str] = {"url": agent.url, "site": agent.site}
    link |= {key: f"/{CONFIGURATION}/{name}" for key, name in _LINK_FILES.items() if name in present}
    table: dict[str, Any] = {"device": agent.device, "group": agent.group, "folder": STATE}
    table["root"] = f"/{CONFIGURATION}/root.json"
    if agent.bundle is not None:
        table["bundle"] = f"/{FACTORY}"
    return tomli_w.dumps({**table, "link": link, "camera": agent.camera, **agent.more})


def drop_in(patience: int) -> str:
    """Returns the drop-in that gives the unit of an emulated board more time."""
    return _PATIENCE.format(start_s=_START_S * patience, watchdog_s=_WATCHDOG_S * patience)


_LINK_FILES = {"ca": "ca.pem", "certificate": "cert.pem", "key": "key.pem"}


def _unit(tree: Path) -> None:
    unit = tree / "etc/systemd/system" / _UNIT_NAME
    wants = unit.parent / "multi-user.target.wants" / _UNIT_NAME
    wants.parent.mkdir(parents=True, exist_ok=True)
    unit.write_text(_UNIT)
    if not wants.is_symlink():
        wants.symlink_to(f"/etc/systemd/system/{_UNIT_NAME}")
