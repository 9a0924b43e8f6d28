"""What is written for each network manager; none of them runs here, so only the files are looked at."""

from __future__ import annotations

import configparser
import dataclasses
import json

import pytest

from lineside_boards.errors import ProvisionError
from lineside_boards.first_boot.settings import Wifi, wpa_key
from lineside_boards.provision import network
from lineside_boards.provision.network import NetworkSettings, StaticAddress
from lineside_boards.provision.shell import Answer, Shell
from lineside_boards.provision.system_facts import SystemFacts
from lineside_runtime.errors import ConfigError

WIFI = Wifi(ssid="hall 3; ünï", key=wpa_key("hall 3; ünï", "correct horse"), country="DE")
STATIC = StaticAddress(address="10.0.0.7/24", gateway="10.0.0.1", dns=("10.0.0.2", "fd00::2"))
FACTS = SystemFacts(
    **dict.fromkeys(("user", "home", "hostname", "architecture", "python", "glibc", "system", "model"), ""),
    compatible=(),
    free_bytes=0,
    home_free_bytes=0,
    systemd=True,
    manager="networkmanager",
    wires=("eth0", "eth1"),
    radios=("wlan0",),
    addresses=(("eth1", "fd00::7/64"), ("eth0", "10.0.0.7/24")),
    host_keys=(),
)


class Paper(Shell):
    """Keeps what is written to it, and answers that nothing is there."""

    def __init__(self) -> None:
        super().__init__("paper", "nobody")
        self.written: dict[str, str] = {}
        self.scripts: list[str] = []

    def _run(self, script: str, data: bytes, timeout_s: float) -> Answer:
        self.scripts.append(script)
        if "# write " in script:
            self.written[script.split("# write ")[1].splitlines()[0]] = data.decode()
            return Answer(0, "")
        return Answer(1 if "sha256sum <" in script else 0, "")

    def close(self) -> None:
        """Nothing to do."""


def written(manager: str, wish: NetworkSettings) -> tuple[dict[str, str], str]:
    """The files that the steps write, and the script that puts them in force."""
    paper = Paper()
    step = network.steps(wish, dataclasses.replace(FACTS, manager=manager))[0]
    assert step.look(paper)
    step.do(paper)
    return paper.written, paper.scripts[-1]


def test_network_manager_gets_a_connection_file() -> None:
    files, script = written("networkmanager", NetworkSettings(wifi=WIFI))
    ((path, text),) = files.items()
    found = configparser.ConfigParser()
    found.read_string(text)
    assert path == "/etc/NetworkManager/system-connections/lineside.nmconnection"
    assert bytes(int(byte) for byte in found["wifi"]["ssid"].rstrip(";").split(";")).decode() == WIFI.ssid
    assert (found["wifi-security"]["psk"], found["connection"]["interface-name"]) == (WIFI.key, "wlan0")
    assert (found["ipv4"]["method"], found["ipv6"]["method"]) == ("auto", "auto")
    assert "nmcli" in script
    assert "do_wifi_country DE" in script
    files, _ = written("networkmanager", NetworkSettings(static=STATIC))
    found = configparser.ConfigParser()
    found.read_string(files[path])
    assert (found["connection"]["type"], found["connection"]["interface-name"]) == ("ethernet", "eth0")
    assert dict(found["ipv4"]) == {"method": "manual", "address1": "10.0.0.7/24,10.0.0.1", "dns": "10.0.0.2;"}


def test_netplan_gets_its_yaml() -> None:
    files, script = written("netplan", NetworkSettings(wifi=WIFI, static=STATIC, interface="wlp1s0"))
    made = json.loads(files["/etc/netplan/90-lineside.yaml"])["network"]["wifis"]["wlp1s0"]
    assert made["access-points"] == {WIFI.ssid: {"password": WIFI.key}}
    assert (made["dhcp4"], made["addresses"]) == (False, ["10.0.0.7/24"])
    assert made["routes"] == [{"to": "default", "via": "10.0.0.1"}]
    assert "netplan generate && netplan apply" in script


def test_networkd_gets_its_file_and_the_supplicant_its_own() -> None:
    files, script = written("networkd", NetworkSettings(wifi=WIFI))
    assert "Name=wlan0\n\n[Network]\nDHCP=yes" in files["/etc/systemd/network/05-lineside.network"]
    supplicant = files["/etc/wpa_supplicant/wpa_supplicant-wlan0.conf"]
    assert f"ssid={WIFI.ssid.encode().hex()}\n" in supplicant
    assert "wpa_supplicant@wlan0.service" in script
    files, _ = written("networkd", NetworkSettings(static=STATIC))
    assert "Address=10.0.0.7/24\nGateway=10.0.0.1\nDNS=10.0.0.2" in files["/etc/systemd/network/05-lineside.network"]


def test_ifupdown_gets_its_stanza() -> None:
    files, script = written("ifupdown", NetworkSettings(static=STATIC))
    text = files["/etc/network/interfaces.d/lineside"]
    assert text.startswith("auto eth0\niface eth0 inet static\n    address 10.0.0.7/24\n    gateway 10.0.0.1\n")
    assert script.endswith("ifup eth0")
    assert "inet dhcp" in written("ifupdown", NetworkSettings(wifi=WIFI))[0]["/etc/network/interfaces.d/lineside"]


def test_board_without_a_manager_or_a_radio_is_told() -> None:
    with pytest.raises(ProvisionError, match="no manager"):
        network.steps(NetworkSettings(wifi=WIFI), dataclasses.replace(FACTS, manager=""))
    with pytest.raises(ProvisionError, match="no Wi-Fi interface"):
        network.steps(NetworkSettings(wifi=WIFI), dataclasses.replace(FACTS, radios=()))
    only_an_address = network.steps(NetworkSettings(), dataclasses.replace(FACTS, manager=""))
    assert len(only_an_address) == 1


def test_address_of_the_board_is_the_old_kind_where_there_are_both_and_one_that_can_not_be_is_refused() -> None:
    found = [network.address_of(FACTS, *name) for name in ((), ("eth1",), ("wlan0",))]
    assert found == ["10.0.0.7", "fd00::7", ""]
    for address, more in (
        ("10.0.0.7", {}), ("10.0.0/24", {}), ("10.0.0.7/24", {"gateway": "10.1.0.1"}), ("10.0.0.7/24", {"dns": ("x",)}),
        ("10.0.0.7/24\nDNS=evil", {}), ("10.0.0.0/24", {}), ("10.0.0.255/24", {}), ("fd00::/64", {}),
        ("10.0.0.7/24", {"gateway": "10.0.0.7"}), ("10.0.0.7/24", {"gateway": "10.0.0.0"}),
        ("10.0.0.7/24", {"gateway": "10.0.0.255"}), ("10.0.0.7/24", {"gateway": "fd00::1"}),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="--gateway" if "gateway" in more else "--static"):
            StaticAddress(address=address, **more).checked()
    for address, gateway in (("10.0.0.0/31", "10.0.0.1"), ("10.0.0.7/32", ""), ("fd00::7/64", "")):
        StaticAddress(address=address, gateway=gateway).checked()
