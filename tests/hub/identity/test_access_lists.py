"""The access list against mosquitto with TLS: for every topic that there is, own and foreign, both ways."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.identity.access_lists import RIGHTS, Right, access_list, aws_policy, emqx_rules
from lineside_hub.identity.authority import Credentials, read_claims
from lineside_hub.identity.secure_site import enroll, make_token, secure
from lineside_hub.repository.repository import Repository
from lineside_link.client.client import LinkClient
from lineside_link.topics import Topics
from lineside_runtime.errors import ConfigError
from tests.peers import SecureMosquitto, find_mosquitto, wait_for

SITE = "t0"
TOPICS = Topics(SITE)


def topic_methods() -> dict[str, str]:
    """Every method of `Topics` that makes a topic of one device or one group, and which of them it takes."""
    found = {}
    for name, method in inspect.getmembers(Topics, inspect.isfunction):
        parameters = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
        if parameters[:1] in (["device"], ["group"]):
            found[name] = parameters[0]
    return found


def test_every_topic_that_there_is_has_its_right() -> None:
    assert {right.topic: right.of for right in RIGHTS} == topic_methods()
    assert len(topic_methods()) >= 10


class _Mosquitto(SecureMosquitto):
    """With an observer who may see and send everything, to prove that others may not."""

    def _write_access(self) -> None:
        text = access_list(self.site, self.authority.devices(), read_claims(self.authority.folder))
        self._access.write_text(f"user observer\ntopic readwrite #\n\n{text}")
        self._access.chmod(0o600)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[_Mosquitto]:
    running = _Mosquitto(tmp_path / "tls", program=find_mosquitto())
    for name, group in (("cam-1", "line-a"), ("cam-2", "line-b"), ("observer", "nobody")):
        running.enroll(name, group=group)
    running.start()
    yield running
    running.stop()


Connect = Callable[..., LinkClient]


@pytest.fixture
def connect(broker: _Mosquitto) -> Iterator[Connect]:
    links: list[LinkClient] = []

    def make(name: str, credentials: Credentials | None = None, **topics: Callable[[str, bytes], None]) -> LinkClient:
        config = broker.config_with(credentials or _files(broker, name))
        link = LinkClient(config, name)
        for topic, handler in topics.items():
            link.subscribe(topic, handler)
        links.append(link)
        link.start()
        assert link.wait_connected(60), link.last_error
        return link

    yield make
    for link in links:
        link.close()


def _files(broker: _Mosquitto, name: str) -> Credentials:
    folder = broker.authority.folder / "issued" / name
    return Credentials(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")


def names(right: Right) -> list[str]:
    """A topic of one's own, of another's, and some that no device should reach."""
    own, other = ("cam-1", "cam-2") if right.of == "device" else ("line-a", "line-b")
    return [concrete(right.name(TOPICS, own)), concrete(right.name(TOPICS, other))]


def concrete(name: str) -> str:
    """A topic that a filter matches."""
    return name.replace("#", "surface-1.json/ab")


ODD = ["$SYS/broker/version", "ls/v1/other/d/cam-1/up", "ls/v1/t0/d/cam-1", "ls/v1/t0/x", "ls/v1/t0/d/cam-1/up/x"]


def allowed(who: str, way: str) -> set[str]:
    own = {"device": "cam-1", "group": "line-a"}
    rights = {"device": [right.device for right in RIGHTS], "claim": [right.claim for right in RIGHTS]}[who]
    return {
        concrete(right.name(TOPICS, own[right.of]))
        for right, given in zip(RIGHTS, rights, strict=True)
        if given in (way, "readwrite")
    }


def everything() -> list[str]:
    return [topic for right in RIGHTS for topic in names(right)] + ODD


def seen_by_all(connect: Connect, link: LinkClient, sentinel: str) -> set[str]:
    """Publishes on everything there is; returns on which topics anybody saw it."""
    seen: set[str] = set()
    done: list[bytes] = []

    def observed(topic: str, payload: bytes) -> None:
        if payload == b"mine":
            seen.add(topic)
        elif payload == b"last":
            done.append(payload)

    connect("observer", **{"#": observed})
    for topic in everything():
        link.publish(topic, b"mine")
    link.publish(sentinel, b"last")
    wait_for(lambda: done, what="the last message")
    return seen


def heard_by(connect: Connect, name: str, credentials: Credentials | None, sentinel: str) -> set[str]:
    """Subscribes to everything there is; returns what comes."""
    heard: set[str] = set()
    done: list[bytes] = []

    def take(topic: str, payload: bytes) -> None:
        if payload == b"last":
            done.append(payload)
        else:
            heard.add(topic)

    connect(name, credentials, **dict.fromkeys([*everything(), "#", "ls/v1/t0/#", "ls/v1/t0/d/+/desired"], take))
    observer = connect("observer")
    for topic in everything():
        observer.publish(topic, b"secret")
    observer.publish(sentinel, b"last")
    wait_for(lambda: done, what="the last message")
    return heard


def test_a_device_writes_its_own_topics_and_nothing_else(broker: _Mosquitto, connect: Connect) -> None:
    own = connect("cam-1")
    assert seen_by_all(connect, own, TOPICS.up("cam-1")) == allowed("device", "write")


def test_a_device_reads_its_own_topics_and_nothing_else(broker: _Mosquitto, connect: Connect) -> None:
    assert heard_by(connect, "cam-1", None, TOPICS.up("cam-1")) == allowed("device", "read")


def claim(broker: _Mosquitto) -> tuple[str, Credentials]:
    token = broker.authority.token("cam-1", group="line-a")
    broker.reload()
    files = {}
    for name, text in (("ca", token.ca), ("cert", token.certificate), ("key", token.key)):
        files[name] = broker.folder / f"claim-{name}.pem"
        files[name].write_text(text)
    return f"claim-{token.id}", Credentials(files["ca"], files["cert"], files["key"])


def test_a_token_may_ask_for_its_device_and_nothing_else(broker: _Mosquitto, connect: Connect) -> None:
    connect("cam-2")  # mosquitto serves somebody, so that it handles the signal of the reload
    name, credentials = claim(broker)
    link = connect(name, credentials)
    assert seen_by_all(connect, link, TOPICS.certificate_request("cam-1")) == allowed("claim", "write")
    link.close()
    assert heard_by(connect, name, credentials, TOPICS.certificate("cam-1")) == allowed("claim", "read")


def test_a_revoked_device_is_muzzled_at_once_and_turned_away_after_a_restart(
    broker: _Mosquitto, connect: Connect
) -> None:
    link = connect("cam-1")
    broker.authority.revoke("cam-1")
    broker.reload()
    seen: list[str] = []
    connect("observer", **{"#": lambda topic, _: seen.append(topic)})

    def muzzled() -> bool:
        seen.clear()
        link.publish(TOPICS.up("cam-1"), b"still here")
        other = connect("cam-2")
        other.publish(TOPICS.up("cam-2"), b"marker")
        wait_for(lambda: TOPICS.up("cam-2") in seen, what="the marker")
        other.close()
        return TOPICS.up("cam-1") not in seen

    wait_for(muzzled, what="the list to be read again")
    link.close()
    broker.restart()
    refused = LinkClient(broker.config_with(_files(broker, "cam-1")), "cam-1")
    refused.start()
    try:
        wait_for(lambda: refused.last_error is not None, what="the refusal")
        assert not refused.connected
    finally:
        refused.close()
    again = connect("cam-2")
    assert again.connected


def test_the_forms_of_other_brokers_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices = {"cam-1": "line-a"}
    rules = emqx_rules(SITE, devices).splitlines()
    assert rules[-1] == "{deny, all}."
    [reads] = [line for line in rules if '"cam-1"}' in line and "subscribe" in line]
    [writes] = [line for line in rules if '"cam-1"}' in line and "publish" in line]
    assert {concrete(topic) for topic in re.findall(r'"(ls/[^"]+)"', reads)} == allowed("device", "read")
    assert {concrete(topic) for topic in re.findall(r'"(ls/[^"]+)"', writes)} == allowed("device", "write")
    policy = json.loads(aws_policy(SITE, region="eu-central-1", account="1"))
    published = next(part["Resource"] for part in policy["Statement"] if "iot:Publish" in part["Action"])
    own = "${iot:Connection.Thing.ThingName}"
    assert {name.split(":topic/")[1].replace(own, "cam-1") for name in published} == allowed("device", "write")
    with pytest.raises(ConfigError):
        access_list(SITE, devices, {"claim-1": "a/b"})


def test_the_command_prints_the_list_with_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = Repository.create(tmp_path / "hub", groups=["line-a"]).folder
    (hub / "hub.toml").write_text('folder = "."\n[link]\nurl = "mqtt://127.0.0.1"\nsite = "t0"\n')
    secure(hub, hosts=["127.0.0.1"], port=8883, passphrase="correct horse")
    enroll(hub, "cam-1", group="line-a", passphrase="correct horse")
    token = make_token(hub, "cam-2", group="line-a", passphrase="correct horse")
    assert main(["hub", "acl", "--hub", str(hub)]) == 0
    printed = capsys.readouterr().out
    assert printed == (hub / "identity" / "mosquitto.acl").read_text()
    assert f"user claim-{token.id}\ntopic read ls/v1/t0/d/cam-2/cert\ntopic write ls/v1/t0/d/cam-2/csr\n" in printed
    for form in ("emqx", "aws"):
        assert main(["hub", "acl", "--format", form, "--hub", str(hub)]) == 0
    assert "iot:Connect" in capsys.readouterr().out
