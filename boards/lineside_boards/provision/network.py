"""The board's network: a file of whoever manages it there, put in force, and seen to give an address.

=================  ==============================================================  =================================
``networkmanager``  ``/etc/NetworkManager/system-connections/lineside.nmconnection``  Raspberry Pi OS, JetPack, Armbian
``netplan``         ``/etc/netplan/90-lineside.yaml``                                 Ubuntu Server
``networkd``        ``/etc/systemd/network/05-lineside.network``, wpa_supplicant      Debian's cloud images, ours
``ifupdown``        ``/etc/network/interfaces.d/lineside``                            Debian
=================  ==============================================================  =================================

The Wi-Fi key is WPA's, not the password. Files: nm-settings-keyfile(5), netplan(5), systemd.network(5),
wpa_supplicant.conf(5), interfaces(5).
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import shlex

import msgspec

from lineside_boards.first_boot.settings import Wifi
from lineside_boards.provision.facts import SystemFacts
from lineside_boards.provision.shell import Shell
from lineside_boards.provision.steps import ProvisionStep
from lineside_runtime.errors import ConfigError, ProvisionError

ADDRESS_WAIT_S = 60.0
"""DHCP on a switch with spanning tree takes half a minute."""

HINT_WIRE = "Is the cable in, and does the switch give addresses (DHCP)? Otherwise give --static."
HINT_WIFI = (
    "Is the network's name right, its password, and the country? `lineside board console`, then `journalctl -b`."
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """A fixed address.

    Attributes:
        address: With its prefix's length, such as ``192.168.1.20/24``.
        gateway: Or empty.
        dns: Addresses.
    """

    address: str
    gateway: str = ""
    dns: tuple[str, ...] = ()

    def checked(self) -> Static:
        """Returns it, or says what can't be used.

        Raises:
            ConfigError: It is no address, or the gateway isn't in its network.
        """
        try:
            place = ipaddress.ip_interface(self.address)
            gateway = ipaddress.ip_address(self.gateway) if self.gateway else None
            for one in self.dns:
                ipaddress.ip_address(one)
        except ValueError as error:
            raise ConfigError(f"--static: {error}", expected="such as 192.168.1.20/24") from error
        if "/" not in self.address:
            raise ConfigError("--static", expected="an address with its prefix, such as /24", actual=self.address)
        if gateway is not None and gateway not in place.network:
            raise ConfigError("--gateway", expected=f"an address in {place.network}", actual=self.gateway)
        return self


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the network should be.

    Attributes:
        wifi: A wireless network, or ``None`` for the wire.
        static: A fixed address, or ``None`` for DHCP.
        interface: Its name on the board; empty for the first of its kind.
    """

    wifi: Wifi | None = None
    static: Static | None = None
    interface: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether the board's own settings are left alone."""
        return self.wifi is None and self.static is None and not self.interface


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """What is written, and what puts it in force.

    Attributes:
        files: Path to content; only root reads them.
        apply: Script, done as root.
    """

    files: dict[str, str]
    apply: str


def steps(wish: Wish, facts: SystemFacts) -> list[ProvisionStep]:
    """Returns the steps to the wished network; a wish that is empty only sees that there is an address.

    Raises:
        ProvisionError: The board has no such interface, or a network manager that we don't know.
    """
    hint = HINT_WIFI if wish.wifi is not None else HINT_WIRE
    if wish.is_empty:
        return [_address_step("", "", hint)]
    interface = wish.interface or _first(wish, facts)
    if facts.manager not in _WRITERS:
        raise ProvisionError(
            "the board's network has no manager that we know",
            expected=", ".join(_WRITERS),
            action="Set it up by hand with `lineside board console`, and run this without --wifi and --static.",
        )
    made = _WRITERS[facts.manager](wish, interface)
    address = wish.static.address if wish.static is not None else ""
    unblock = _unblock(wish.wifi) if wish.wifi is not None else ""
    return [
        _file_step(made, facts.manager, unblock),
        _address_step(interface, address, hint, retry=made.apply),
    ]


def address_of(facts: SystemFacts, interface: str = "") -> str:
    """Returns an address under which the board may be reached; empty if it has none."""
    known = [place for name, place in facts.addresses if not interface or name == interface]
    return min(known, key=lambda place: ":" in place).partition("/")[0] if known else ""


def _first(wish: Wish, facts: SystemFacts) -> str:
    names = facts.radios if wish.wifi is not None else facts.wires
    if not names:
        kind = "Wi-Fi" if wish.wifi is not None else "Ethernet"
        raise ProvisionError(f"the board has no {kind} interface", action="`ip link` there shows which it has.")
    return names[0]


def _file_step(made: Files, manager: str, before: str) -> ProvisionStep:
    wanted = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in made.files.items()}

    def look(shell: Shell) -> str:
        return "".join(f"{path} differs " for path, digest in wanted.items() if shell.digest(path) != digest)

    def do(shell: Shell) -> None:
        for path, text in made.files.items():
            shell.write(path, text.encode(), mode=0o600 if manager != "networkd" or "wpa" in path else 0o644)
        shell.ask(f"{before}{made.apply}", root=True, timeout_s=120.0)

    return ProvisionStep(name=f"{manager} knows the network", look=look, do=do)


def _address_step(interface: str, address: str, hint: str, retry: str = "") -> ProvisionStep:
    what = f"{interface or 'the board'} has {f'the address {address}' if address else 'an address'}"
    device = f"dev {shlex.quote(interface)} " if interface else ""

    def look(shell: Shell) -> str:
        found = shell.run(f"ip -o addr show {device}scope global | awk '{{ print $4 }}'").text.split()
        return "" if (address in found if address else found) else f"{', '.join(found) or 'no address'}"

    def do(shell: Shell) -> None:
        if retry:
            shell.ask(retry, root=True, timeout_s=120.0)

    return ProvisionStep(name=what, look=look, do=do, wait_s=ADDRESS_WAIT_S, hint=hint)


def _unblock(wifi: Wifi) -> str:
    country = shlex.quote(wifi.country)
    return (
        "rfkill unblock wifi 2>/dev/null\n"
        f"raspi-config nonint do_wifi_country {country} >/dev/null 2>&1 || iw reg set {country} 2>/dev/null\n"
    )


def _network_manager(wish: Wish, interface: str) -> Files:
    kind = "wifi" if wish.wifi is not None else "ethernet"
    text = f"[connection]\nid=lineside\ntype={kind}\ninterface-name={interface}\n"
    text += "autoconnect=true\nautoconnect-priority=10\n\n"
    if wish.wifi is not None:
        ssid = ";".join(str(byte) for byte in wish.wifi.ssid.encode()) + ";"  # bytes: no sign has to be escaped
        text += (
            f"[wifi]\nmode=infrastructure\nssid={ssid}\n\n[wifi-security]\nkey-mgmt=wpa-psk\npsk={wish.wifi.key}\n\n"
        )
    for family, key in (("ipv4", 4), ("ipv6", 6)):
        fixed = wish.static if wish.static and ipaddress.ip_interface(wish.static.address).version == key else None
        if fixed is None:
            text += f"[{family}]\nmethod=auto\n\n"
            continue
        gateway = f",{fixed.gateway}" if fixed.gateway else ""
        names = "".join(f"{one};" for one in fixed.dns if ipaddress.ip_address(one).version == key)
        text += (
            f"[{family}]\nmethod=manual\naddress1={fixed.address}{gateway}\n"
            + (f"dns={names}\n" if names else "")
            + "\n"
        )
    path = "/etc/NetworkManager/system-connections/lineside.nmconnection"
    return Files({path: text}, f"nmcli connection load {path} && nmcli --wait 60 connection up id lineside")


def _netplan(wish: Wish, interface: str) -> Files:
    table: dict[str, object] = {"dhcp4": wish.static is None, "optional": True}
    if wish.static is not None:
        table["addresses"] = [wish.static.address]
        if wish.static.gateway:
            table["routes"] = [{"to": "default", "via": wish.static.gateway}]
        if wish.static.dns:
            table["nameservers"] = {"addresses": list(wish.static.dns)}
    kind = "ethernets"
    if wish.wifi is not None:
        kind = "wifis"
        table["regulatory-domain"] = wish.wifi.country
        table["access-points"] = {wish.wifi.ssid: {"password": wish.wifi.key}}
    whole = {"network": {"version": 2, kind: {interface: table}}}
    text = msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"  # JSON is YAML
    return Files({"/etc/netplan/90-lineside.yaml": text}, "netplan generate && netplan apply")


def _networkd(wish: Wish, interface: str) -> Files:
    fixed = wish.static
    lines = ["[Match]", f"Name={interface}", "", "[Network]"]
    lines += ["DHCP=yes"] if fixed is None else [f"Address={fixed.address}"]
    if fixed is not None:
        lines += ([f"Gateway={fixed.gateway}"] if fixed.gateway else []) + [f"DNS={one}" for one in fixed.dns]
    files = {"/etc/systemd/network/05-lineside.network": "\n".join([*lines, ""])}
    # A unit that is left over from before `reload` was known to networkctl (systemd 244) is started anew.
    apply = (
        f"(networkctl reload && networkctl reconfigure {shlex.quote(interface)}) || systemctl restart systemd-networkd"
    )
    if wish.wifi is not None:
        unit = shlex.quote(f"wpa_supplicant@{interface}.service")
        files[f"/etc/wpa_supplicant/wpa_supplicant-{interface}.conf"] = _supplicant(wish.wifi)
        apply = f"systemctl enable {unit} && systemctl restart {unit} && {apply}"
    return Files(files, apply)


def _supplicant(wifi: Wifi) -> str:
    ssid = wifi.ssid.encode().hex()  # without quotes it is hexadecimal: no sign has to be escaped
    return (
        f"ctrl_interface=/run/wpa_supplicant\ncountry={wifi.country}\n"
        f"network={{\n\tssid={ssid}\n\tkey_mgmt=WPA-PSK\n\tpsk={wifi.key}\n}}\n"
    )


def _ifupdown(wish: Wish, interface: str) -> Files:
    family = "inet6" if wish.static and ":" in wish.static.address else "inet"
    lines = [f"auto {interface}", f"iface {interface} {family} {'static' if wish.static else 'dhcp'}"]
    if wish.static is not None:
        lines += [f"    address {wish.static.address}"]
        lines += [f"    gateway {wish.static.gateway}"] if wish.static.gateway else []
        lines += [f"    dns-nameservers {' '.join(wish.static.dns)}"] if wish.static.dns else []
    files = {}
    if wish.wifi is not None:
        path = "/etc/wpa_supplicant/wpa_supplicant-lineside.conf"
        files[path] = _supplicant(wish.wifi)
        lines += [f"    wpa-conf {path}"]
    name = shlex.quote(interface)
    return Files(
        {**files, "/etc/network/interfaces.d/lineside": "\n".join([*lines, ""])},
        f"ifdown {name} 2>/dev/null; ifup {name}",
    )


_WRITERS = {"networkmanager": _network_manager, "netplan": _netplan, "networkd": _networkd, "ifupdown": _ifupdown}
