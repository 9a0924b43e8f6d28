"""Configure the board's network with a file of its network manager, and check that it gets an address.

=================  ==============================================================  =================================
``networkmanager``  ``/etc/NetworkManager/system-connections/lineside.nmconnection``  Raspberry Pi OS, JetPack, Armbian
``netplan``         ``/etc/netplan/90-lineside.yaml``                                 Ubuntu Server
``networkd``        ``/etc/systemd/network/05-lineside.network``, wpa_supplicant      Debian's cloud images, ours
``ifupdown``        ``/etc/network/interfaces.d/lineside``                            Debian
=================  ==============================================================  =================================

The Wi-Fi key is the derived WPA key, not the password. Files: nm-settings-keyfile(5), netplan(5), systemd.network(5),
wpa_supplicant.conf(5), interfaces(5).
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import shlex

import msgspec

from lineside_boards.errors import ProvisionError
from lineside_boards.first_boot.settings import Wifi
from lineside_boards.provision.shell import Shell
from lineside_boards.provision.steps import ProvisionStep
from lineside_boards.provision.system_facts import SystemFacts
from lineside_runtime.errors import ConfigError

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ADDRESS_WAIT_S = 60.0
"""DHCP behind a switch with spanning tree takes half a minute."""

HINT_WIRE = "Is the cable in, and does the switch give addresses (DHCP)? Otherwise give --static."
HINT_WIFI = (
    "Is the network's name right, its password, and the country? `lineside board console`, then `journalctl -b`."
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StaticAddress:
    """A fixed address.

    Attributes:
        address: With prefix length, such as ``192.168.1.20/24``.
        gateway: Or empty.
    """

    address: str
    gateway: str = ""
    dns: tuple[str, ...] = ()

    def checked(self) -> StaticAddress:
        """Validates the address and returns it.

        Raises:
            ConfigError: It or the gateway is no address of a device, or the gateway is not another one of its network.
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
        if gateway == place.ip:
            raise ConfigError("--gateway", expected="another address than the board's own", actual=self.gateway)
        for option, given, ip in (("--static", self.address, place.ip), ("--gateway", self.gateway, gateway)):
            if ip in _reserved(place.network):
                expected = f"an address of a device: {ip} is of the network {place.network} itself"
                raise ConfigError(option, expected=expected, actual=given)
        return self


def _reserved(network: _Network) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
    """Returns the addresses that no device may have: of the network and, with IPv4, of the broadcast."""
    if network.prefixlen >= network.max_prefixlen - 1:  # a link of two, or a single address (RFC 3021, RFC 6164)
        return ()
    if isinstance(network, ipaddress.IPv4Network):
        return network.network_address, network.broadcast_address
    return (network.network_address,)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """Desired settings of the network.

    Attributes:
        wifi: A wireless network, or ``None`` for Ethernet.
        static: A fixed address, or ``None`` for DHCP.
        interface: Name on the board; empty for the first of its kind.
    """

    wifi: Wifi | None = None
    static: StaticAddress | None = None
    interface: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether the board's settings stay as they are."""
        return self.wifi is None and self.static is None and not self.interface


@dataclasses.dataclass(frozen=True, slots=True)
class NetworkFiles:
    """Files by path, readable by root only, and the script that applies them as root."""

    files: dict[str, str]
    apply: str


def steps(settings: NetworkSettings, facts: SystemFacts) -> list[ProvisionStep]:
    """Returns the steps to the desired network; empty settings only check for an address.

    Raises:
        ProvisionError: The board has no such interface, or an unknown network manager.
    """
    hint = HINT_WIFI if settings.wifi is not None else HINT_WIRE
    if settings.is_empty:
        return [_address_step("", "", hint)]
    interface = settings.interface or _first(settings, facts)
    if facts.manager not in _WRITERS:
        raise ProvisionError(
            "the board's network has no manager that lineside knows",
            expected=", ".join(_WRITERS),
            action="Set it up by hand with `lineside board console`, and run this without --wifi and --static.",
        )
    made = _WRITERS[facts.manager](settings, interface)
    address = settings.static.address if settings.static is not None else ""
    unblock = _unblock(settings.wifi) if settings.wifi is not None else ""
    return [
        _file_step(made, facts.manager, unblock),
        _address_step(interface, address, hint, retry=made.apply),
    ]


def address_of(facts: SystemFacts, interface: str = "") -> str:
    """Returns an address of the board; empty if it has none."""
    known = [place for name, place in facts.addresses if not interface or name == interface]
    return min(known, key=lambda place: ":" in place).partition("/")[0] if known else ""


def _first(settings: NetworkSettings, facts: SystemFacts) -> str:
    names = facts.radios if settings.wifi is not None else facts.wires
    if not names:
        kind = "Wi-Fi" if settings.wifi is not None else "Ethernet"
        raise ProvisionError(f"the board has no {kind} interface", action="`ip link` there shows which it has.")
    return names[0]


def _file_step(made: NetworkFiles, manager: str, before: str) -> ProvisionStep:
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


def _network_manager(settings: NetworkSettings, interface: str) -> NetworkFiles:
    kind = "wifi" if settings.wifi is not None else "ethernet"
    text = f"[connection]\nid=lineside\ntype={kind}\ninterface-name={interface}\n"
    text += "autoconnect=true\nautoconnect-priority=10\n\n"
    if settings.wifi is not None:
        ssid = ";".join(str(byte) for byte in settings.wifi.ssid.encode()) + ";"  # bytes: nothing has to be escaped
        text += f"[wifi]\nmode=infrastructure\nssid={ssid}\n\n"
        text += f"[wifi-security]\nkey-mgmt=wpa-psk\npsk={settings.wifi.key}\n\n"
    for family, key in (("ipv4", 4), ("ipv6", 6)):
        fixed = (
            settings.static
            if settings.static and ipaddress.ip_interface(settings.static.address).version == key
            else None
        )
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
    return NetworkFiles({path: text}, f"nmcli connection load {path} && nmcli --wait 60 connection up id lineside")


def _netplan(settings: NetworkSettings, interface: str) -> NetworkFiles:
    table: dict[str, object] = {"dhcp4": settings.static is None, "optional": True}
    if settings.static is not None:
        table["addresses"] = [settings.static.address]
        if settings.static.gateway:
            table["routes"] = [{"to": "default", "via": settings.static.gateway}]
        if settings.static.dns:
            table["nameservers"] = {"addresses": list(settings.static.dns)}
    kind = "ethernets"
    if settings.wifi is not None:
        kind = "wifis"
        table["regulatory-domain"] = settings.wifi.country
        table["access-points"] = {settings.wifi.ssid: {"password": settings.wifi.key}}
    whole = {"network": {"version": 2, kind: {interface: table}}}
    text = msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"  # JSON is YAML
    return NetworkFiles({"/etc/netplan/90-lineside.yaml": text}, "netplan generate && netplan apply")


def _networkd(settings: NetworkSettings, interface: str) -> NetworkFiles:
    fixed = settings.static
    lines = ["[Match]", f"Name={interface}", "", "[Network]"]
    lines += ["DHCP=yes"] if fixed is None else [f"Address={fixed.address}"]
    if fixed is not None:
        lines += ([f"Gateway={fixed.gateway}"] if fixed.gateway else []) + [f"DNS={one}" for one in fixed.dns]
    files = {"/etc/systemd/network/05-lineside.network": "\n".join([*lines, ""])}
    # networkctl before systemd 244 has no `reload`.
    apply = (
        f"(networkctl reload && networkctl reconfigure {shlex.quote(interface)}) || systemctl restart systemd-networkd"
    )
    if settings.wifi is not None:
        unit = shlex.quote(f"wpa_supplicant@{interface}.service")
        files[f"/etc/wpa_supplicant/wpa_supplicant-{interface}.conf"] = _supplicant(settings.wifi)
        apply = f"systemctl enable {unit} && systemctl restart {unit} && {apply}"
    return NetworkFiles(files, apply)


def _supplicant(wifi: Wifi) -> str:
    ssid = wifi.ssid.encode().hex()  # without quotes it is hexadecimal: nothing has to be escaped
    return (
        f"ctrl_interface=/run/wpa_supplicant\ncountry={wifi.country}\n"
        f"network={{\n\tssid={ssid}\n\tkey_mgmt=WPA-PSK\n\tpsk={wifi.key}\n}}\n"
    )


def _ifupdown(settings: NetworkSettings, interface: str) -> NetworkFiles:
    family = "inet6" if settings.static and ":" in settings.static.address else "inet"
    lines = [f"auto {interface}", f"iface {interface} {family} {'static' if settings.static else 'dhcp'}"]
    if settings.static is not None:
        lines += [f"    address {settings.static.address}"]
        lines += [f"    gateway {settings.static.gateway}"] if settings.static.gateway else []
        lines += [f"    dns-nameservers {' '.join(settings.static.dns)}"] if settings.static.dns else []
    files = {}
    if settings.wifi is not None:
        path = "/etc/wpa_supplicant/wpa_supplicant-lineside.conf"
        files[path] = _supplicant(settings.wifi)
        lines += [f"    wpa-conf {path}"]
    name = shlex.quote(interface)
    return NetworkFiles(
        {**files, "/etc/network/interfaces.d/lineside": "\n".join([*lines, ""])},
        f"ifdown {name} 2>/dev/null; ifup {name}",
    )


_WRITERS = {"networkmanager": _network_manager, "netplan": _netplan, "networkd": _networkd, "ifupdown": _ifupdown}
