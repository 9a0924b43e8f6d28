"""Mutual TLS in two commands: what lies there afterwards, and what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.config import load_config
from lineside_hub.fleet.status import warnings
from lineside_hub.identity.secure_site import enroll, old_access_list, secure
from lineside_hub.repository.repository import Repository
from lineside_runtime.errors import ConfigError, InputNotFoundError, SignatureError


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    (tmp_path / "hub.toml").write_text('folder = "."\n[link]\nurl = "mqtt://127.0.0.1:1883"\nsite = "plant-1"\n')
    return tmp_path


def test_hub_uses_tls_afterwards(hub: Path) -> None:
    made = secure(hub, hosts=["broker.plant", "10.0.0.5"], port=8884)
    config = load_config(made.hub_configuration)
    assert config.link.url == made.url == "mqtts://broker.plant:8884"
    assert config.link.site == "plant-1"
    for name in (config.link.ca, config.link.certificate, config.link.key):
        assert name is not None
        assert Path(name).is_file()


def test_enrolled_device_is_in_the_access_list_and_its_key_is_private(hub: Path) -> None:
    secure(hub, hosts=["127.0.0.1"], port=8883)
    credentials = enroll(hub, "cam-07", group="line-3")
    listed = hub / "identity" / "mosquitto.acl"
    assert "user cam-07" in listed.read_text()
    assert "ls/v1/plant-1/g/line-3/desired" in listed.read_text()
    assert stat.S_IMODE(listed.stat().st_mode) == 0o600
    assert stat.S_IMODE(credentials.key.stat().st_mode) == 0o600


def test_a_second_authority_is_refused_and_the_first_stays(hub: Path) -> None:
    secure(hub, hosts=["127.0.0.1"], port=8883)
    before = (hub / "identity" / "ca.pem").read_bytes()
    with pytest.raises(ConfigError):
        secure(hub, hosts=["127.0.0.1"], port=8883)
    assert (hub / "identity" / "ca.pem").read_bytes() == before


def test_enrolling_needs_an_authority_and_its_passphrase(hub: Path) -> None:
    with pytest.raises(InputNotFoundError):
        enroll(hub, "cam-07", group="line-3")
    secure(hub, hosts=["127.0.0.1"], port=8883, passphrase="four words make one")
    with pytest.raises(SignatureError):
        enroll(hub, "cam-07", group="line-3", passphrase="guess")
    assert enroll(hub, "cam-07", group="line-3", passphrase="four words make one").certificate.is_file()


def test_an_access_list_of_an_older_release_is_said_to_be_one(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Repository.create(hub, groups=["line-a"])
    secure(hub, hosts=["127.0.0.1"], port=8883)
    enroll(hub, "cam-1", group="line-a")
    assert old_access_list(hub) is None and warnings(hub) == []
    path = hub / "identity" / "mosquitto.acl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.endswith("/frame\n")))
    [said] = warnings(hub)
    assert "cam-1 lacks 'write ls/v1/" in said or "lineside-hub lacks 'read ls/v1/" in said
    assert "1 more" in said and f"lineside hub acl --hub {hub.resolve()} > {path.resolve()}" in said
    capsys.readouterr()
    assert main(["hub", "acl", "--hub", str(hub)]) == 0
    path.write_text(capsys.readouterr().out)
    assert old_access_list(hub) is None, "what the warning says to do helps"
