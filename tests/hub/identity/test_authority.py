from __future__ import annotations

import datetime
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from lineside_hub.identity.access_lists import access_list
from lineside_hub.identity.authority import HUB_NAME, Authority, Credentials
from lineside_hub.rollouts.push import push
from lineside_link.client.client import LinkClient
from lineside_link.messages import Desired, Up, decode, encode
from lineside_link.topics import Topics
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError, InputNotFoundError, SignatureError
from tests.peers import SecureMosquitto, find_mosquitto, wait_for
from tests.worlds.hub import HubProcess, make_repository, write_hub

SITE = "test"
TOPICS = Topics(SITE)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", site=SITE)


def common_name(path: Path) -> str:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_a_devices_name_is_its_certificates_and_its_key_is_its_own(authority: Authority) -> None:
    first = authority.enroll("cam-01", group="line-a")
    second = authority.enroll("cam-02", group="line-b")
    assert common_name(first.certificate) == "cam-01"
    assert stat.S_IMODE(first.key.stat().st_mode) == 0o600
    assert first.key.read_bytes() != second.key.read_bytes()
    assert authority.devices() == {"cam-01": "line-a", "cam-02": "line-b"}
    certificate = x509.load_pem_x509_certificate(first.certificate.read_bytes())
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    assert 729 < left.days + 1 <= 731


@pytest.mark.parametrize("name", [HUB_NAME, "lineside-broker", "", "a/b", "+", "a\nuser b"])
def test_names_that_no_device_may_have(authority: Authority, name: str) -> None:
    with pytest.raises(ConfigError):
        authority.enroll(name, group="line-a")
    assert authority.devices() == {}


def test_the_authority_is_made_once_and_guarded_by_its_passphrase(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", site=SITE, passphrase="correct horse")
    assert b"ENCRYPTED" in (tmp_path / "ca" / "ca.key").read_bytes()
    with pytest.raises(ConfigError, match="already"):
        Authority.create(tmp_path / "ca", site=SITE)
    for passphrase, what in ((None, "needs a passphrase"), ("wrong", "cannot be opened")):
        with pytest.raises(SignatureError, match=f"{what}. Give .* --ask-passphrase"):
            Authority.open(tmp_path / "ca", passphrase=passphrase)
    assert Authority.open(tmp_path / "ca", passphrase="correct horse").enroll("cam-01", group="a").key.exists()
    with pytest.raises(InputNotFoundError):
        Authority.open(tmp_path / "nowhere")


def test_the_broker_needs_a_host(authority: Authority) -> None:
    with pytest.raises(ConfigError):
        authority.broker([])


def test_a_name_adds_no_line_to_the_access_list() -> None:
    with pytest.raises(ConfigError):
        access_list(SITE, {"cam-01\nuser evil": "line-a"})


class SecuredSite:
    """mosquitto with mutual TLS and the hub's access list, and the hub connected to it."""

    def __init__(self, folder: Path) -> None:
        self.broker = SecureMosquitto(folder / "mosquitto", program=find_mosquitto(), site=SITE)
        self.authority = self.broker.authority
        self.repository = make_repository(folder / "hub", ["line-a", "line-b"])
        write_hub(self.repository.folder, self.broker.config(site=SITE))
        self.hub = HubProcess(self.repository.folder, folder / "hub.log")
        self.links: list[LinkClient] = []
        self.broker.enroll("cam-01", group="line-a")
        self.broker.enroll("cam-02", group="line-b")
        self.broker.start()
        self.hub.start()

    def connect(self, credentials: Credentials, name: str, *, wait: bool = True) -> LinkClient:
        link = LinkClient(self.broker.config_with(credentials, site=SITE), name)
        self.links.append(link)
        link.start()
        if wait:
            assert link.wait_connected(60), link.last_error
        return link

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.hub.kill()
        self.broker.kill()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredSite]:
    made = SecuredSite(tmp_path_factory.mktemp("secured"))
    yield made
    made.close()


@pytest.fixture
def secured(site: SecuredSite) -> Iterator[SecuredSite]:
    """The site of all tests; the links of each are closed after it."""
    yield site
    while site.links:
        site.links.pop().close()


def credentials_of(secured: SecuredSite, device: str) -> Credentials:
    folder = secured.authority.folder / "issued" / device
    return Credentials(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")


def test_over_tls_a_device_gets_its_groups_desired_state_and_not_anothers(
    secured: SecuredSite, make_bundle: Callable[..., Bundle]
) -> None:
    heard: dict[str, bytes] = {}
    link = secured.connect(credentials_of(secured, "cam-01"), "cam-01")
    link.subscribe(f"{TOPICS.prefix}/#", heard.__setitem__)
    push(secured.repository.folder, make_bundle("2.0.0").path, group="line-b")
    wanted = push(secured.repository.folder, make_bundle("1.0.0").path, group="line-a")
    wait_for(lambda: TOPICS.group_desired("line-a") in heard, what="the desired state")
    assert decode(heard[TOPICS.group_desired("line-a")], Desired).bundle == wanted.ref
    assert set(heard) == {TOPICS.group_desired("line-a")}


def test_nobody_pushes_another_off_the_broker_by_its_name(secured: SecuredSite) -> None:
    first = secured.connect(credentials_of(secured, "cam-01"), "cam-01")
    heard: dict[str, bytes] = {}
    first.subscribe(TOPICS.up("cam-01"), heard.__setitem__)
    secured.connect(credentials_of(secured, "cam-02"), "cam-01")
    own = encode(Up(device="cam-01", up=True, boot_id="b"))
    wait_for(
        lambda: first.publish(TOPICS.up("cam-01"), own) and TOPICS.up("cam-01") in heard,
        what="the first to be there",
    )
    assert first.counters["connects"] == 1


def test_an_unknown_authority_and_no_certificate_at_all_are_turned_away(secured: SecuredSite, tmp_path: Path) -> None:
    foreign = Authority.create(tmp_path / "foreign", site=SITE).enroll("cam-01", group="line-a")
    mixed = Credentials(credentials_of(secured, "cam-01").ca, foreign.certificate, foreign.key)
    link = secured.connect(mixed, "cam-01", wait=False)
    assert not link.wait_connected(1.0)
    assert link.last_error is not None
    context = ssl.create_default_context(cafile=str(mixed.ca))
    host, port = "127.0.0.1", secured.broker.port
    with (
        socket.create_connection((host, port)) as plain,
        pytest.raises(ssl.SSLError),
        context.wrap_socket(plain, server_hostname=host) as encrypted,
    ):
        encrypted.recv(1)
