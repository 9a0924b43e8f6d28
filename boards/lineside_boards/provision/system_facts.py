"""`SystemFacts`: facts of a running board, read by one script of sh(1) that prints one fact a line."""

from __future__ import annotations

import dataclasses
import re

from lineside_boards import profile
from lineside_boards.errors import ProvisionError
from lineside_boards.profile import BoardFacts, BoardProfile
from lineside_boards.provision.shell import Shell

SCRIPT = r"""# what the board is
fact() { printf '%s=%s\n' "$1" "$(printf %s "$2" | tr '\0\n' '  ')"; }
fact user "$(id -un)"
fact home "$HOME"
fact hostname "$(cat /proc/sys/kernel/hostname)"
fact architecture "$(uname -m)"
fact python "$(/usr/bin/python3 -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
fact glibc "$(getconf GNU_LIBC_VERSION 2>/dev/null)"
fact system "$(. /etc/os-release 2>/dev/null; echo "$PRETTY_NAME")"
fact model "$(cat /proc/device-tree/model 2>/dev/null || cat /sys/class/dmi/id/product_name 2>/dev/null)"
fact compatible "$(tr '\0' ' ' < /proc/device-tree/compatible 2>/dev/null)"
fact free_kib "$(df -Pk /opt 2>/dev/null | awk 'NR == 2 { print $4 }')"
fact home_free_kib "$(df -Pk "$HOME" 2>/dev/null | awk 'NR == 2 { print $4 }')"
[ -d /run/systemd/system ] && fact systemd yes
if nmcli -t general status >/dev/null 2>&1; then fact manager networkmanager
elif command -v netplan >/dev/null 2>&1 && [ -d /etc/netplan ]; then fact manager netplan
elif [ -d /run/systemd/netif ]; then fact manager networkd
elif command -v ifup >/dev/null 2>&1; then fact manager ifupdown
fi
for link in /sys/class/net/*; do
    name=${link##*/}
    if [ -e "$link/wireless" ] || [ -e "$link/phy80211" ]; then fact wireless "$name"
    elif [ "$name" != lo ] && [ "$(cat "$link/type")" = 1 ]; then
        if [ -e "$link/device" ]; then fact wire "$name"; else virtual="$virtual $name"; fi
    fi
done
for name in $virtual; do fact wire "$name"; done
ip -o addr show scope global 2>/dev/null | awk '{ print "address=" $2 " " $4 }'
for key in /etc/ssh/ssh_host_*_key.pub; do [ -r "$key" ] && fact host_key "$(cut -d' ' -f1,2 "$key")"; done
echo whole=yes
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SystemFacts:
    """Facts of a running board.

    Attributes:
        user: Who is logged in.
        home: Home folder of the user.
        architecture: Such as ``aarch64``.
        python: Version of ``/usr/bin/python3``, such as ``3.13``; empty if there is none.
        glibc: Such as ``2.41``; empty if unknown.
        system: Such as ``Debian GNU/Linux 13 (trixie)``.
        model: The maker's name.
        compatible: Names of the device tree.
        free_bytes: In ``/opt``, where the agent goes.
        home_free_bytes: In the home folder, where the payload goes.
        systemd: Whether systemd runs.
        manager: Of its network: ``networkmanager``, ``netplan``, ``networkd``, ``ifupdown``, or empty.
        wires: Ethernet interfaces, hardware first.
        radios: Wi-Fi interfaces.
        addresses: Interface and global address with prefix length.
        host_keys: Public keys of its SSH server.
    """

    user: str
    home: str
    hostname: str
    architecture: str
    python: str
    glibc: str
    system: str
    model: str
    compatible: tuple[str, ...]
    free_bytes: int
    home_free_bytes: int
    systemd: bool
    manager: str
    wires: tuple[str, ...]
    radios: tuple[str, ...]
    addresses: tuple[tuple[str, str], ...]
    host_keys: tuple[str, ...]

    def profile(self, name: str | None) -> BoardProfile | None:
        """Returns the profile of a name, or the one that matches the device tree; ``None`` if none does.

        Accelerators are not examined: of several matches the one with the fewest requirements is taken.
        """
        if name is not None:
            return profile.load(name)
        fitting = [one for one in map(profile.load, profile.names()) if self._is(one.board)]
        return min(fitting, key=lambda one: (len(one.board.accelerators), one.board.engine), default=None)

    def _is(self, facts: BoardFacts) -> bool:
        named = not (facts.compatible or self.compatible) or not set(facts.compatible).isdisjoint(self.compatible)
        return named and facts.architecture == self.architecture


def take(shell: Shell) -> SystemFacts:
    """Reads the facts.

    Raises:
        ProvisionError: It is no Linux with the usual programs.
        BoardLinkError: The connection broke.
    """
    text = shell.ask(SCRIPT)
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found.setdefault(name, []).append(value.strip())
    if "whole" not in found:
        raise ProvisionError(f"{shell.where} isn't a Linux that we know", actual=text[-200:])

    def one(name: str) -> str:
        return found.get(name, [""])[0]

    return SystemFacts(
        **{name: one(name) for name in ("user", "home", "hostname", "architecture", "python", "system", "model")},
        glibc=one("glibc").removeprefix("glibc "),
        manager=one("manager"),
        compatible=tuple(one("compatible").split()),
        free_bytes=1024 * int(one("free_kib") or 0),
        home_free_bytes=1024 * int(one("home_free_kib") or 0),
        systemd=one("systemd") == "yes",
        wires=tuple(found.get("wire", ())),
        radios=tuple(found.get("wireless", ())),
        addresses=tuple((name, place) for name, _, place in (line.partition(" ") for line in found.get("address", ()))),
        host_keys=tuple(found.get("host_key", ())),
    )
