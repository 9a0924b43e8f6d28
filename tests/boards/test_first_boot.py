from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomllib
import yaml

from lineside_boards import profile
from lineside_boards.agent_files import SystemTarget
from lineside_boards.errors import ImageError, PayloadError
from lineside_boards.first_boot import firstrun
from lineside_boards.first_boot.settings import FirstBootSettings, Wifi, one_line, wpa_key
from lineside_boards.prepare import Prepared, prepare
from lineside_runtime.errors import ConfigError, InputError
from tests.boards.images import (
    MIB,
    STOCK_USER_DATA,
    check_file_systems,
    fat_file,
    jetpack,
    raspberry_pi_os,
    root_file,
    run,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBwkfVGHOYeWUq0gQmHPTMIH3Qmdvy9YkYbJ8xSAs0Az me@desk"
SETTINGS = FirstBootSettings(
    hostname="cam-07",
    ssh_keys=(KEY,),
    wifi=Wifi(ssid="O\"Brien's net", key=wpa_key("hall", "correct horse"), country="DE"),
    instance="cam-07-1234",
).checked()


def lay_out(tree: Path, target: SystemTarget) -> None:
    (tree / "opt/lineside").mkdir(parents=True)
    (tree / "opt/lineside/target").write_text(f"{target.python} {target.architecture}")


def make(
    image: Path, out: Path, board: str = "rpi5", settings: FirstBootSettings = SETTINGS
) -> tuple[Prepared, list[str]]:
    said: list[str] = []
    made = prepare(image, out, profile=profile.load(board), settings=settings, lay_out=lay_out, say=said.append)
    return made, said


def pi(folder: Path, way: str, **facts: Any) -> Path:
    return raspberry_pi_os(folder / f"{way}.img", first_boot=way, **facts)


def test_cloud_init_image_is_told_by_its_seed_and_the_makers_commands_are_not_doubled(tmp_path: Path) -> None:
    out, twice = tmp_path / "out.img", tmp_path / "twice.img"
    made, said = make(pi(tmp_path, "cloud-init"), out)
    assert (made.first_boot, made.python, made.image) == ("cloud-init", "3.13", out)
    assert any("cloud-init" in line for line in said)
    text = fat_file(out, "user-data")
    assert text.startswith("#cloud-config\n") and "\r" not in text
    told = yaml.safe_load(text)
    assert told["hostname"] == "cam-07"
    assert told["user"]["ssh_authorized_keys"] == [KEY]
    assert told["user"]["sudo"].endswith("NOPASSWD:ALL"), "nobody can type a password that there isn't"
    assert told["runcmd"][0] == ["touch", "/etc/vendor"], "what the maker wants done is done"
    assert "systemctl enable --now ssh" in told["runcmd"][1][2]
    assert json.loads(fat_file(out, "meta-data")) == {"instance-id": "cam-07-1234", "local-hostname": "cam-07"}
    network = yaml.safe_load(fat_file(out, "network-config"))["network"]
    assert network["wifis"]["wlan0"]["access-points"] == {"O\"Brien's net": {"password": SETTINGS.wifi.key}}  # type: ignore[union-attr]  # there is a network
    words = fat_file(out, "cmdline.txt").split()
    assert words[-2:] == ["ds=nocloud", "cfg80211.ieee80211_regdom=DE"]
    assert fat_file(out, "cmdline.txt").count("\n") == 1
    assert root_file(out, "/opt/lineside/target") == "3.13 aarch64"
    check_file_systems(out, tmp_path)
    make(out, twice)
    commands = yaml.safe_load(fat_file(twice, "user-data"))["runcmd"]
    assert len(commands) == len({json.dumps(command) for command in commands}) == 2
    assert fat_file(twice, "cmdline.txt") == fat_file(out, "cmdline.txt")


def test_firstrun_image_runs_our_script_once(tmp_path: Path) -> None:
    out = tmp_path / "out.img"
    made, _ = make(pi(tmp_path, "firstrun"), out)
    assert made.first_boot == "firstrun"
    words = fat_file(out, "cmdline.txt").split()
    assert "systemd.run=/boot/firmware/firstrun.sh" in words
    assert "systemd.unit=kernel-command-line.target" in words
    assert words[0] == "console=serial0,115200"
    script = tmp_path / "firstrun.sh"
    script.write_text(fat_file(out, "firstrun.sh"))
    subprocess.run(["sh", "-n", script], check=True)
    assert KEY in script.read_text()
    check_file_systems(out, tmp_path)


def test_script_takes_itself_away_also_where_a_step_fails(tmp_path: Path) -> None:
    """Run here as far as that needs no root's files: every command that would change this machine is absent."""
    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / "cmdline.txt").write_text(
        f"root=X quiet systemd.run={boot}/firstrun.sh systemd.unit=kernel-command-line.target\n"
    )
    text = firstrun.script(FirstBootSettings(hostname="cam-07"), boot_path=str(boot))
    head = text[: text.index("echo cam-07")]
    (boot / "firstrun.sh").write_text(f"{head}false_command_that_is_not_there\nexit 3\n")
    assert subprocess.run(["sh", boot / "firstrun.sh"], stderr=subprocess.DEVNULL).returncode == 3
    assert (boot / "cmdline.txt").read_text() == "root=X quiet\n"
    assert not (boot / "firstrun.sh").exists()


def test_preseed_image_gets_custom_toml(tmp_path: Path) -> None:
    out = tmp_path / "out.img"
    hashed = msgspec.structs.replace(SETTINGS, password_hash="$6$salt$abcdefg").checked()
    made, _ = make(pi(tmp_path, "preseed"), out, settings=hashed)
    assert made.first_boot == "preseed"
    told = tomllib.loads(fat_file(out, "custom.toml"))
    assert told["system"]["hostname"] == "cam-07"
    assert told["user"] == {"name": "admin", "password": "$6$salt$abcdefg", "password_encrypted": True}
    assert told["ssh"] == {"enabled": True, "password_authentication": False, "authorized_keys": [KEY]}
    assert told["wlan"]["country"] == "DE"
    assert "systemd.run" not in fat_file(out, "cmdline.txt")
    check_file_systems(out, tmp_path)


def test_jetpack_is_told_in_its_root_file_system(tmp_path: Path) -> None:
    out = tmp_path / "out.img"
    made, _ = make(jetpack(tmp_path / "jetson.img"), out, board="jetson-orin-nano")
    assert (made.first_boot, made.python) == ("direct", "3.10")
    assert root_file(out, "/etc/hostname", offset=5 * MIB) == "cam-07\n"
    assert root_file(out, "/root/.ssh/authorized_keys", offset=5 * MIB) == f"{KEY}\n"
    where = f"{out}?offset={5 * MIB}"
    listed = run("debugfs", "-R", "ls -p /etc/NetworkManager/system-connections", where)
    assert "/100600/0/0/lineside.nmconnection/" in listed
    run("e2fsck", "-fn", where)


def test_packed_image_is_unpacked(tmp_path: Path) -> None:
    image = pi(tmp_path, "cloud-init")
    subprocess.run(["xz", "-0", "-k", image], check=True)
    make(image.with_suffix(".img.xz"), tmp_path / "out.img")
    assert root_file(tmp_path / "out.img", "/opt/lineside/target") == "3.13 aarch64"


def test_image_for_another_processor_is_refused(tmp_path: Path) -> None:
    for machine, words in ((0x3E, "x86_64"), (0x28, "armv7l"), (0x1234, "ELF machine 0x1234")):
        image = pi(tmp_path, "cloud-init", machine=machine)
        with pytest.raises(PayloadError, match=words):
            make(image, tmp_path / "out.img")
        assert not (tmp_path / "out.img").exists()
        shutil.rmtree(f"{image}.tree")


def test_nothing_remains_of_a_preparation_that_failed(tmp_path: Path) -> None:
    image, other = pi(tmp_path, "cloud-init"), jetpack(tmp_path / "jetson.img")
    before = sorted(path.name for path in tmp_path.iterdir())

    def fail(tree: Path, target: SystemTarget) -> None:
        raise PayloadError("no agent")

    with pytest.raises(PayloadError):
        prepare(image, tmp_path / "out.img", profile=profile.load("rpi5"), settings=SETTINGS, lay_out=fail, say=print)
    with pytest.raises(ImageError, match="bootfs"):  # the layout of another board
        make(other, tmp_path / "out.img")
    subprocess.run(["mcopy", "-o", "-i", f"{image}@@4M", "-", "::user-data"], input=b"#!/bin/sh\nreboot\n", check=True)
    with pytest.raises(ImageError, match="no cloud-config"):
        make(image, tmp_path / "out.img")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (tmp_path / "out.img").write_text("precious")
    with pytest.raises(InputError):
        make(image, tmp_path / "out.img")
    assert (tmp_path / "out.img").read_text() == "precious"


def test_wpa_key_is_the_standards() -> None:
    """IEEE 802.11-2020, annex J.4.2."""
    assert wpa_key("IEEE", "password") == "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    assert wpa_key("any", "AB" * 32) == "ab" * 32


@pytest.mark.parametrize(
    ("name", "value"),
    [("hostname", "cam_07"), ("hostname", "a\nb"), ("hostname", ""), ("user", "root"), ("user", "lineside"),
     ("user", "a;reboot"), ("password_hash", "secret"), ("password_hash", "$6$x$y\nroot::0"),
     ("ssh_keys", ("-----BEGIN OPENSSH PRIVATE KEY-----",)), ("ssh_keys", (f"{KEY}\ncommand",)),
     ("wifi", Wifi(ssid="x", key="", country="Germany")), ("wifi", Wifi(ssid="x", key="", country="UK"))],
)  # fmt: skip
def test_settings_that_would_break_a_file_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        FirstBootSettings(**{"hostname": "cam-07", name: value}).checked()


@pytest.mark.parametrize(
    ("ssid", "password"), [("", "12345678"), ("x" * 33, "12345678"), ("x", "short"), ("x", "ü" * 9)]
)
def test_wifi_that_no_radio_accepts_is_refused(ssid: str, password: str) -> None:
    with pytest.raises(ConfigError):
        wpa_key(ssid, password)


def test_command_line_saved_on_windows_is_one_line() -> None:
    assert one_line(b"\xef\xbb\xbfroot=X quiet\r\n\r\n") == ["root=X", "quiet"]
    assert "\r" in STOCK_USER_DATA
