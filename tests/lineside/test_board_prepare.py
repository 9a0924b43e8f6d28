"""`lineside board prepare` from end to end: a hub, its identity, an image of Raspberry Pi OS' layout."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import tomllib
import yaml
from cryptography import x509

from lineside.cli import main
from lineside.commands.board.prepare import wifi
from lineside_boards.first_boot.settings import wpa_key
from lineside_boards.image.ext4 import Ext4Volume
from lineside_boards.image.partition_table import partitions
from lineside_hub.config import load_config
from lineside_runtime.errors import ConfigError
from tests.agent.deployment.self_update.wheels import make_payload, program_wheel
from tests.boards.images import check_file_systems, fat_file, raspberry_pi_os
from tests.boards.loop import loop_device
from tests.worlds.secure_site import make_secure_hub

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBwkfVGHOYeWUq0gQmHPTMIH3Qmdvy9YkYbJ8xSAs0Az me@desk"


class PrepareInputs:
    """What somebody has who wants to prepare a board."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub = folder / "hub"
        self.image = raspberry_pi_os(folder / "pi.img", first_boot="cloud-init", root_mib=96)
        self.payload = make_payload(
            folder / "payload", program_wheel(folder / "w", "9.9", "print(1)"), architecture="aarch64", python="3.13"
        ).path
        (folder / "key.pub").write_text(f"{KEY}\n")
        make_secure_hub(self.hub, group="line-3", host="10.0.0.5")

    def options(self, **changes: str | None) -> list[str]:
        wanted: dict[str, str | None] = {
            "board": "rpi5",
            "image": str(self.image),
            "name": "cam-07",
            "group": "line-3",
            "hub": str(self.hub),
            "ssh-key": str(self.folder / "key.pub"),
            "bundle": "surface-12",
            "payload": str(self.payload),
            **changes,
        }
        return [part for key, value in wanted.items() if value is not None for part in (f"--{key}", value)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> PrepareInputs:
    return PrepareInputs(tmp_path_factory.mktemp("desk"))


def prepare(desk: PrepareInputs, out: Path, extra: Sequence[str] = (), **changes: str | None) -> int:
    return main(["board", "prepare", *desk.options(**changes), "--out", str(out), *extra])


def test_one_command_makes_an_image_that_knows_who_it_is(
    desk: PrepareInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINESIDE_WIFI_PASSWORD", "correct horse")
    out = tmp_path / "out.img"
    assert prepare(desk, out, ["--json", "--wifi", "hall", "--wifi-country", "de"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["first_boot"], told["python"]) == ("cloud-init", "3.13")
    root = Ext4Volume(out, partitions(out)[1])
    config = tomllib.loads(root.read("/etc/lineside/agent.toml").decode())
    assert (config["device"], config["group"], config["camera"]) == ("cam-07", "line-3", {"type": "v4l2"})
    assert config["link"]["url"] == load_config(desk.hub / "hub.toml").link.url == "mqtts://10.0.0.5:8883"
    certificate = x509.load_pem_x509_certificate(root.read(config["link"]["certificate"]))
    assert certificate.subject.rfc4514_string() == "CN=cam-07"
    assert root.read("/etc/lineside/root.json") == (desk.hub / "root.json").read_bytes()
    assert oct(root.entries("/etc/lineside")["key.pem"].mode) == "0o100640"
    assert root.exists("/opt/lineside/factory/manifest.json")
    assert root.exists("/opt/lineside/slots/a/venv/bin/python3.13")
    assert root.exists("/etc/systemd/system/multi-user.target.wants/lineside-agent.service")
    assert root.exists("/etc/systemd/system/multi-user.target.wants/lineside-prepare.service")
    assert not root.exists("/etc/systemd/system/lineside-agent.service.d"), "that is for emulators"
    assert b"correct horse" not in out.read_bytes(), "the card doesn't hold the password"
    network = yaml.safe_load(fat_file(out, "network-config"))["network"]
    assert network["wifis"]["wlan0"]["regulatory-domain"] == "DE"
    check_file_systems(out, tmp_path)


def test_image_goes_onto_a_card_in_the_same_command(
    desk: PrepareInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    card = tmp_path / "card"
    with card.open("wb") as file:
        file.truncate(256 << 20)
    with loop_device(card) as device:
        assert main(["board", "flash", *desk.options(), "--to", str(device), "--loop", "--yes"]) == 0
    assert "written and read back" in capsys.readouterr().out
    assert [part.label for part in partitions(card)] == ["bootfs", "rootfs"]
    assert b"cam-07" in Ext4Volume(card, partitions(card)[1]).read("/etc/lineside/agent.toml")
    assert not list((tmp_path / "cache/lineside").iterdir()), "the prepared image, with its key, is gone"


@pytest.mark.parametrize(
    ("changes", "extra", "words"),
    [
        ({"board": "rpi6"}, [], "[7001] no profile"),
        ({"name": "cam 07"}, [], "[2001] --name"),
        ({"group": "line-9"}, [], "no group 'line-9'; expected line-3"),
        ({"hub": None}, [], "the device has no identity"),
        ({"image": "/absent.img"}, [], "[2002]"),
        ({"bundle": "/absent"}, [], "[2002]"),
        ({"ssh-key": "/absent.pub"}, [], "[2002]"),
        ({"payload": "/absent"}, [], "[2002]"),
        ({}, ["--wifi", "hall"], "--wifi-country"),
        ({}, ["--wifi-password-file", "/absent"], "--wifi-password-file without --wifi"),
        ({}, ["--wifi-country", "DE"], "--wifi-country without --wifi"),
        ({}, ["--wifi", "hall", "--wifi-country", "UK"], "[2001] --wifi-country; expected a country of ISO 3166"),
        ({}, ["--wifi", "hall", "--wifi-country", "DE"], "nobody to ask"),
        ({"ssh-key": os.devnull}, [], "--ssh-key /dev/null is empty"),
        ({}, ["--camera", "folder:relative"], "--camera"),
        ({}, ["--identity", "/absent", "--broker", "mqtts://x", "--site", "s"], "root.json is not there"),
        ({"board": "jetson-orin-nano"}, [], "[7002]"),
    ],
)
def test_what_can_not_be_is_said_and_leaves_no_image(
    desk: PrepareInputs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str | None],
    extra: list[str],
    words: str,
) -> None:
    for variable in ("LINESIDE_WIFI_PASSWORD", "LINESIDE_HUB"):
        monkeypatch.delenv(variable, raising=False)
    assert prepare(desk, tmp_path / "out.img", extra, **changes) == 1
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_broker_that_only_the_hub_reaches_is_not_written_onto_a_card(
    desk: PrepareInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    hub, out = tmp_path / "hub", tmp_path / "out.img"
    shutil.copytree(desk.hub, hub)
    text = (hub / "hub.toml").read_text()
    (hub / "hub.toml").write_text(text.replace("mqtts://10.0.0.5:", f"mqtts://{host}:"))
    assert prepare(desk, out, hub=str(hub)) == 1
    told = capsys.readouterr().err
    assert "[2001] the hub's broker, as the board would reach it; expected" in told
    assert f"got mqtts://{host}:8883. Give --broker" in told
    assert not out.exists()
    assert prepare(desk, out, hub=str(hub), broker=f"mqtts://{host}:8883") == 0


def test_password_of_the_wireless_network_keeps_its_blanks_and_is_text(tmp_path: Path) -> None:
    path = tmp_path / "password"
    options = argparse.Namespace(wifi="hall", wifi_country="DE", wifi_password_file=path)
    path.write_bytes(b" correct horse \r\n")
    told = wifi(options)
    assert told is not None
    assert told.key == wpa_key("hall", " correct horse ")
    path.write_bytes(b"correct\xff horse\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        wifi(options)


def test_payload_for_another_python_is_refused(
    desk: PrepareInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_payload(
        tmp_path / "other", program_wheel(tmp_path / "w", "9.9", "print(1)"), architecture="aarch64", python="3.11"
    )
    assert prepare(desk, tmp_path / "out.img", payload=str(other.path)) == 1
    assert "expected cp313-aarch64; got cp311-aarch64" in capsys.readouterr().err


def test_agents_own_reader_accepts_the_configuration_of_a_plain_broker(
    desk: PrepareInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.img"
    assert prepare(desk, out, broker="mqtt://10.0.0.5", board="qemu-virt") == 0
    root = Ext4Volume(out, partitions(out)[1])
    config = tomllib.loads(root.read("/etc/lineside/agent.toml").decode())
    assert config["link"] == {"url": "mqtt://10.0.0.5", "site": "plant-1"}
    assert config["camera"]["type"] == "simulator"
    assert b"TimeoutStartSec=1800" in root.read("/etc/systemd/system/lineside-agent.service.d/emulator.conf")


LINE = """
[camera]
type = "rtsp"
url = "rtsp://10.0.0.9/stream"

[[line_io]]
type = "gpio"
chip = "/dev/gpiochip0"
outputs = { rejected = 17 }
"""


def test_rest_of_the_agents_configuration_comes_from_a_file(desk: PrepareInputs, tmp_path: Path) -> None:
    more = tmp_path / "more.toml"
    more.write_text(LINE)
    out = tmp_path / "out.img"
    assert prepare(desk, out, config=str(more)) == 0
    found = tomllib.loads(Ext4Volume(out, partitions(out)[1]).read("/etc/lineside/agent.toml").decode())
    wanted = tomllib.loads(LINE)
    assert (found["camera"], found["line_io"]) == (wanted["camera"], wanted["line_io"])
    assert (found["device"], found["link"]["site"]) == ("cam-07", "plant-1")


@pytest.mark.parametrize(
    ("text", "extra", "words"),
    [
        ('device = "cam-08"\n', [], "got device"),
        (LINE, ["--camera", "v4l2"], "expected one of the two"),
        (LINE.replace("rejected", "lamp"), [], "lamp"),
        ("[camera\n", [], "is no TOML"),
    ],
)
def test_file_that_the_agent_could_not_use_is_said_before_anything_is_copied(
    desk: PrepareInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, extra: list[str], words: str
) -> None:
    more = tmp_path / "more.toml"
    more.write_text(text)
    assert prepare(desk, tmp_path / "out.img", extra, config=str(more)) == 1
    told = capsys.readouterr().err
    assert words in told and str(more) in told
    assert "is the root" not in told
