from __future__ import annotations

from pathlib import Path

import pytest

from lineside_hub.config import load_config, named_files
from lineside_runtime.errors import ConfigError, InputNotFoundError

GOOD = 'folder = "data"\n[link]\nurl = "mqtt://127.0.0.1:1883"\nsite = "plant-1"\n'


def test_a_configuration_is_read_and_its_folder_is_absolute(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    path.write_text(GOOD)
    config = load_config(path)
    assert config.folder == str(tmp_path.resolve() / "data")
    assert config.link.site == "plant-1"
    assert config.renew_every_s == 3600.0


def test_files_are_beside_the_configuration_wherever_the_hub_is_started(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    path.write_text(
        GOOD
        + """
[web]
tls_certificate = "web.pem"
tls_key = "web.key"
[alarms.email]
host = "mail"
username = "hub"
password_file = "mail-password"
sender = "hub@plant"
to = ["line@plant"]
[[alarms.webhook]]
url = "https://bot"
secret_file = "secrets/bot"
"""
    )
    names = ["web.pem", "web.key", "mail-password", "secrets/bot"]
    assert named_files(load_config(path)) == [tmp_path.resolve() / name for name in names]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("site", "sight"), "link"),
        (GOOD.replace('"mqtt://127.0.0.1:1883"', "1883"), r"\$\.link\.url"),
        (GOOD.replace("folder", "folders"), "folders"),
        ("folder = 3", r"\$\.folder"),
        ("renew_every_s = 0.5\n" + GOOD, "renew_every_s"),
        (GOOD.replace("mqtt://", "http://"), "link.url"),
        (GOOD.replace("plant-1", "plant/1"), "site"),
        ("= broken", "hub.toml"),
    ],
)
def test_an_error_names_the_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "hub.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(path)
    assert caught.value.code == 2001
    assert caught.value.message.startswith(f"{path}: ")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        load_config(tmp_path / "hub.toml")


WINDOW = 'folder = "."\n[link]\nurl = "mqtt://127.0.0.1"\nsite = "t0"\n[window]\nstart = "22:00"\nend = "05:00"\n'


def test_a_maintenance_window_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    path.write_text(WINDOW + 'timezone = "Europe/Berlin"\n')
    window = load_config(path).window
    assert window is not None
    assert (window.start, window.fetch) == ("22:00", "at_once")


@pytest.mark.parametrize(
    ("line", "key"), [('timezone = "Mars/Olympus"', "timezone"), ('timezone = "UTC"\nday = ["sat"]', "day")]
)
def test_a_maintenance_window_that_cannot_be_followed_is_refused(tmp_path: Path, line: str, key: str) -> None:
    path = tmp_path / "hub.toml"
    path.write_text(f"{WINDOW}{line}\n")
    with pytest.raises(ConfigError, match=key):
        load_config(path)
