from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineside_link.config import LinkConfig
from lineside_runtime.errors import ConfigError


def read(text: str) -> LinkConfig:
    return msgspec.toml.decode(text, type=LinkConfig)


def test_it_is_read_from_toml() -> None:
    config = read('url = "mqtt://127.0.0.1"\nsite = "plant-1"\nkeepalive_s = 30')
    assert (config.host, config.port, config.tls, config.keepalive_s) == ("127.0.0.1", 1883, False, 30)


def test_tls_has_its_own_port() -> None:
    config = LinkConfig("mqtts://hub.plant", "plant-1", ca="/etc/lineside/ca.pem")
    assert (config.host, config.port, config.tls) == ("hub.plant", 8883, True)


def test_an_ipv6_address() -> None:
    config = LinkConfig("mqtt://[::1]:2000", "plant-1")
    assert (config.host, config.port, config.loopback) == ("::1", 2000, True)


@pytest.mark.parametrize(
    ("host", "loopback"), [("localhost", True), ("127.0.0.1", True), ("10.0.0.1", False), ("hub.plant", False)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert LinkConfig(f"mqtt://{host}", "s").loopback is loopback


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError, match="keepalive"):
        read('url = "mqtt://127.0.0.1"\nsite = "s"\nkeepalive = 30')


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "127.0.0.1:1883"},
        {"url": "http://127.0.0.1"},
        {"url": "mqtt://"},
        {"url": "mqtt://host:0"},
        {"url": "mqtt://host:99999"},
        {"url": "mqtt://host/path"},
        {"url": "mqtt://user:secret@host"},
        {"url": "mqtts://host"},
        {"ca": "/ca.pem"},
        {"certificate": "/c.pem", "key": "/k.pem"},
        {"url": "mqtts://host", "ca": "/ca.pem", "certificate": "/c.pem"},
        {"password_file": "/p"},
        {"site": "a/b"},
        {"keepalive_s": 0},
        {"reconnect_min_s": 0.0},
        {"reconnect_min_s": 10.0, "reconnect_max_s": 1.0},
    ],
)
def test_what_cannot_work_is_said_at_once(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        LinkConfig(**{"url": "mqtt://127.0.0.1", "site": "s", **changes})
    assert caught.value.code == 2001
    assert "secret" not in str(caught.value)


def test_a_password_is_the_first_line_of_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "password"
    path.write_text("pass word \nrest\n")
    path.chmod(0o600)
    config = LinkConfig("mqtt://127.0.0.1", "s", username="u", password_file=str(path))
    assert config.password() == "pass word "
    assert not caplog.text
    path.chmod(0o644)
    assert config.password() == "pass word "
    assert "chmod 600" in caplog.text


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    config = LinkConfig("mqtt://127.0.0.1", "s", username="u", password_file=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="none"):
        config.password()
