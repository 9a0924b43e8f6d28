"""Mutual TLS in two commands: what lies there afterwards, and what is refused."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509

from lineside.cli import main
from lineside_hub.config import load_config
from lineside_hub.fleet.status import warnings
from lineside_hub.identity.expiries import certificate_warnings
from lineside_hub.identity.secure_site import enroll, make_token, old_access_list, renew, secure
from lineside_link.certificates import read_certificate
from lineside_runtime.errors import ConfigError, InputNotFoundError, RolloutError, SignatureError
from tests.worlds.hub import make_repository

HUB_TOML = """folder = "."
[link]
url = "mqtt://127.0.0.1:1883"
site = "plant-1"
keepalive_s = 20
[web]
port = 8091
[[alarms.rule]]
name = "device-silent"
figure = "silent_s"
limit = 300
"""


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    make_repository(tmp_path, ["line-3"])
    (tmp_path / "hub.toml").write_text(HUB_TOML)
    return tmp_path


def test_hub_uses_tls_afterwards(hub: Path) -> None:
    made = secure(hub, hosts=["broker.plant", "10.0.0.5"], port=8884)
    config = load_config(made.hub_configuration)
    assert config.link.url == made.url == "mqtts://broker.plant:8884"
    assert config.link.site == "plant-1"
    assert config.link.keepalive_s == 20 and config.web is not None and config.web.port == 8091
    assert [rule.name for rule in config.alarms.rule] == ["device-silent"]
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
    with pytest.raises(InputNotFoundError, match="hub secure --host"):
        renew(hub)
    assert not (hub / "identity").exists()
    secure(hub, hosts=["127.0.0.1"], port=8883)
    before = (hub / "identity" / "ca.pem").read_bytes()
    with pytest.raises(ConfigError, match="--renew"):
        secure(hub, hosts=["127.0.0.1"], port=8883)
    assert (hub / "identity" / "ca.pem").read_bytes() == before


@pytest.mark.parametrize("host", ["broker ö", "", "a b", "-x", "10.0.0.5:8883", "http://broker"])
def test_a_host_that_no_certificate_names_leaves_nothing_behind(hub: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="host"):
        secure(hub, hosts=["127.0.0.1", host])
    with pytest.raises(ConfigError, match="names no host"):
        secure(hub, hosts=[])
    with pytest.raises(ConfigError, match=r"link\.url"):
        secure(hub, hosts=["127.0.0.1"], port=99999)
    assert not (hub / "identity").exists()


def test_an_interrupted_run_is_finished_with_the_same_authority(hub: Path) -> None:
    secure(hub, hosts=["127.0.0.1"])
    before = (hub / "identity" / "ca.pem").read_bytes()
    (hub / "identity" / "mosquitto.conf").unlink()  # the last file that is written
    secure(hub, hosts=["127.0.0.1"])
    assert (hub / "identity" / "ca.pem").read_bytes() == before
    assert (hub / "identity" / "mosquitto.conf").is_file()


def test_certificates_of_broker_and_hub_are_renewed_in_time(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secure(hub, hosts=["broker.plant", "10.0.0.5"], port=8884)
    enroll(hub, "cam-07", group="line-3")
    identity = hub / "identity"
    broker_file = identity / "mosquitto.conf"
    broker_file.write_text(broker_file.read_text() + "log_type error\n")
    now = datetime.datetime.now(datetime.timezone.utc)
    assert certificate_warnings(identity) == []
    said = certificate_warnings(identity, now=now + datetime.timedelta(days=710))
    assert [line.split(":")[0] for line in said] == [
        "the broker's certificate expires in 19 days",
        "the hub's certificate expires in 19 days",
        "cam-07 did not renew their certificates",
    ]
    assert "--renew" in said[0]
    ended = certificate_warnings(identity, now=now + datetime.timedelta(days=740))
    [remedy] = [text for text in ended if "cam-07" in text]
    assert "cam-07 have expired" in remedy and "lineside hub enroll" in remedy  # to switch it on does not help
    assert "certificate authority has expired" in certificate_warnings(identity, now=now.replace(year=now.year + 11))[0]
    old = (identity / "issued" / "lineside-broker" / "cert.pem").read_bytes()
    assert main(["hub", "secure", "--renew", "--hub", str(hub)]) == 0
    renewed = read_certificate((identity / "issued" / "lineside-broker" / "cert.pem").read_bytes())
    names = renewed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["broker.plant", "10.0.0.5"]
    assert renewed.serial_number != read_certificate(old).serial_number
    assert load_config(hub / "hub.toml").link.url == "mqtts://broker.plant:8884"
    assert "listener 8884\n" in broker_file.read_text() and broker_file.read_text().endswith("log_type error\n")
    assert "agent.toml" not in capsys.readouterr().err
    assert main(["hub", "secure", "--renew", "--hub", str(hub), "--host", "hub.plant"]) == 0
    moved = "devices still connect to mqtts://broker.plant:8884: write mqtts://hub.plant:8884 into [link]"
    assert moved in capsys.readouterr().err
    assert main(["hub", "secure", "--hub", str(hub)]) == 1
    assert "--host is missing" in capsys.readouterr().err


def test_a_group_that_nothing_can_be_signed_for_is_refused(hub: Path) -> None:
    secure(hub, hosts=["127.0.0.1"])
    for enlist in (enroll, make_token):
        with pytest.raises(RolloutError, match=r"no group 'line-4'; expected line-3.*add-group"):
            enlist(hub, "cam-07", group="line-4")
    assert not (hub / "identity" / "enrolled.json").exists()


def test_enrolling_needs_an_authority_and_its_passphrase(hub: Path) -> None:
    with pytest.raises(InputNotFoundError):
        enroll(hub, "cam-07", group="line-3")
    secure(hub, hosts=["127.0.0.1"], port=8883, passphrase="four words make one")
    with pytest.raises(SignatureError):
        enroll(hub, "cam-07", group="line-3", passphrase="guess")
    assert enroll(hub, "cam-07", group="line-3", passphrase="four words make one").certificate.is_file()


def test_an_access_list_of_an_older_release_is_said_to_be_one(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secure(hub, hosts=["127.0.0.1"], port=8883)
    enroll(hub, "cam-1", group="line-3")
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


def test_no_token_is_valid_of_which_no_file_is_written(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secure(hub, hosts=["127.0.0.1"], port=8883)
    (hub / "file").touch()
    words = ["hub", "token", "cam-1", "--group", "line-3", "--hub", str(hub), "--out"]
    assert main([*words, str(hub / "file" / "token")]) == 1
    assert "can't be written" in capsys.readouterr().err
    assert "cam-1" not in (hub / "identity" / "mosquitto.acl").read_text()
    assert main([*words, str(hub / "tokens" / "cam-1.json")]) == 0
    assert stat.S_IMODE((hub / "tokens" / "cam-1.json").stat().st_mode) == 0o600
