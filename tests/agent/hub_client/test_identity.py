"""A device's certificate: the first with a token, the next in time, and what is refused."""

from __future__ import annotations

import datetime
import json
import logging
import queue
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from lineside.cli import main
from lineside_agent.hub_client.identity import ENROLL_AGAIN_S, DeviceIdentity, enroll
from lineside_hub.identity import authority as authority_module
from lineside_hub.identity.authority import Authority
from lineside_hub.identity.registrar import Registrar, sign_waiting, waiting
from lineside_hub.identity.registry import Registry
from lineside_link.certificates import EnrolmentToken, Life, make_request, new_key, read_certificate, read_key
from lineside_link.client.client import LinkClient
from lineside_link.clock import ClockFloor
from lineside_link.config import LinkConfig
from lineside_link.messages import CertificateAnswer, CertificateRequest, decode, encode
from lineside_link.topics import Topics
from lineside_runtime.errors import ConfigError, FetchError, IdentityError, InputNotFoundError, SignatureError
from tests.peers import SecureMosquitto, find_mosquitto, wait_for
from tests.worlds.secure_site import freeze_authority

TOPICS = Topics("t0")


class EnrollmentService:
    """mosquitto with TLS, and the part of the hub that answers requests for certificates."""

    def __init__(self, folder: Path) -> None:
        self.broker = SecureMosquitto(folder / "tls", program=find_mosquitto())
        self.authority = self.broker.authority
        self.broker.start()
        self.link = LinkClient(self.broker.config(), "lineside-hub")
        self.registrar = Registrar(self.authority.folder, self._publish)
        self.late_word = False
        """Whether each answer is followed by one that says that a person must sign."""
        self.link.subscribe(TOPICS.certificate_request("+"), self._asked)
        self.link.start()
        self.registrar.start()
        assert self.link.wait_connected(60), self.link.last_error

    def _asked(self, topic: str, payload: bytes) -> None:
        self.registrar.offer(TOPICS.device_of(topic), payload)

    def _publish(self, device: str, payload: bytes) -> bool:
        published = self.link.publish(TOPICS.certificate(device), payload, retain=True)
        if self.late_word:
            answer = decode(payload, CertificateAnswer)
            waits = CertificateAnswer(device=device, request=answer.request, status="waiting")
            self.link.publish(TOPICS.certificate(device), encode(waits), retain=True)
        return published

    def token(self, folder: Path, device: str = "cam-1", *, hours: float = 1.0) -> Path:
        made = self.authority.token(device, group="line", hours=hours)
        self.broker.reload()
        made = msgspec.structs.replace(made, url=self.broker.url, site="t0", root='{"root": 1}')
        path = folder / f"{device}-{made.id}.token"
        path.write_bytes(msgspec.json.encode(made))
        path.chmod(0o600)
        return path

    def close(self) -> None:
        self.registrar.close()
        self.link.close()
        self.broker.stop()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[EnrollmentService]:
    running = EnrollmentService(tmp_path)
    yield running
    running.close()


def test_a_device_gets_its_certificate_with_a_token_and_connects(service: EnrollmentService, tmp_path: Path) -> None:
    link = enroll(service.token(tmp_path), tmp_path / "own", timeout_s=60)
    certificate = read_certificate((tmp_path / "own" / "cert.pem").read_bytes())
    assert service.authority.devices() == {"cam-1": "line"}
    assert stat.S_IMODE((tmp_path / "own" / "key.pem").stat().st_mode) == 0o600
    assert (tmp_path / "own" / "root.json").read_text() == '{"root": 1}'
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "ca.pem", "cert.pem", "clock", "key.pem", "root.json",
    ]  # fmt: skip
    assert not (service.authority.folder / "issued" / "cam-1").exists(), "the hub never had the key"
    assert f"{certificate.serial_number:x}" in Registry.read(service.authority.folder).certificates
    client = LinkClient(link, "cam-1")
    client.start()
    assert client.wait_connected(60), client.last_error
    client.close()


def test_a_token_serves_once_and_the_same_device_may_ask_again(service: EnrollmentService, tmp_path: Path) -> None:
    token = service.token(tmp_path)
    enroll(token, tmp_path / "own", timeout_s=60)
    first = (tmp_path / "own" / "cert.pem").read_bytes()
    with pytest.raises(ConfigError, match="already"):
        enroll(token, tmp_path / "own")
    with pytest.raises(IdentityError, match="used before"):
        enroll(token, tmp_path / "thief", timeout_s=60)
    assert not (tmp_path / "thief" / "cert.pem").exists()
    (tmp_path / "own" / "cert.pem").unlink()  # as if it was killed before it was written
    enroll(token, tmp_path / "own", timeout_s=60)
    assert (tmp_path / "own" / "cert.pem").read_bytes() == first


def test_a_key_is_certified_only_for_its_own_device(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", site="t0")
    token = authority.token("cam-1", group="line")
    by = read_key(token.key.encode())
    other = authority.enroll("cam-2", group="line")
    second = read_key(other.key.read_bytes())
    serial = f"{read_certificate(other.certificate.read_bytes()).serial_number:x}"
    wrong = [
        make_request("cam-2", new_key(), signer=f"token:{token.id}", by=by),
        make_request("cam-1", new_key(), signer=f"serial:{serial}", by=second),
        make_request("cam-1", new_key(), signer=f"token:{token.id}", by=new_key()),
        make_request("cam-1", new_key(), signer="token:none", by=by),
        make_request("cam-1", new_key(), signer=f"claim:{token.id}", by=by),
        make_request(
            "cam-1", new_key(), signer=f"serial:{Registry.read(authority.folder).claims[token.id].serial}", by=by
        ),
    ]
    good = make_request("cam-1", new_key(), signer=f"token:{token.id}", by=by)
    wrong.append(msgspec.structs.replace(good, csr=wrong[0].csr))
    wrong.append(msgspec.structs.replace(good, csr="junk"))
    wrong.append(msgspec.structs.replace(good, signature="###"))
    named = make_request("cam-9", new_key(), signer=f"token:{token.id}", by=by)
    wrong.append(msgspec.structs.replace(named, device="cam-1"))
    for request in wrong:
        with pytest.raises(IdentityError) as caught:
            authority.answer(request)
        assert caught.value.code == 4020
    assert authority.answer(good).startswith(b"-----BEGIN CERTIFICATE")


def test_an_expired_token_and_a_revoked_device_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.create(tmp_path / "ca", site="t0")
    token = authority.token("cam-1", group="line", hours=1)
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=2)
    request = make_request("cam-1", new_key(), signer=f"token:{token.id}", by=read_key(token.key.encode()))
    assert authority_module.read_claims(authority.folder) == {f"claim-{token.id}": "cam-1"}
    monkeypatch.setattr(authority_module, "_now", lambda: later)
    assert authority_module.read_claims(authority.folder) == {}
    with pytest.raises(IdentityError, match="expired"):
        authority.answer(request)
    monkeypatch.undo()
    credentials = authority.enroll("cam-1", group="line")
    certificate = read_certificate(credentials.certificate.read_bytes())
    assert authority.revoke("cam-1") == 2
    assert authority.devices() == {}
    by = read_key(credentials.key.read_bytes())
    again = make_request("cam-1", new_key(), signer=f"serial:{certificate.serial_number:x}", by=by)
    for refused in (again, request):
        with pytest.raises(IdentityError, match="revoked"):
            authority.answer(refused)
    crl = x509.load_pem_x509_crl((authority.folder / "ca.crl").read_bytes())
    assert crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
    assert crl.next_update_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(ConfigError):
        authority.revoke("cam-1")
    for hours in (0, -1, 10_000):
        with pytest.raises(ConfigError):
            authority.token("cam-1", group="line", hours=hours)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"id": 1}', None])
def test_what_is_no_token(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ConfigError, InputNotFoundError)):
        enroll(path, tmp_path / "own")


def test_without_the_hub_it_says_what_it_waits_for(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", site="t0")
    token = msgspec.structs.replace(authority.token("cam-1", group="line"), url="mqtts://127.0.0.1:1", site="t0")
    path = tmp_path / "token"
    path.write_bytes(msgspec.json.encode(token))
    said: list[str] = []
    with pytest.raises(FetchError, match="not connected"):
        enroll(path, tmp_path / "own", timeout_s=1.0, progress=said.append)
    assert said
    assert not list((tmp_path / "own").glob(".claim*"))


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that was not given the passphrase of the authority's key."""

    def refuse(folder: Path, *, passphrase: str | None = None) -> Authority:
        raise SignatureError("the authority's key cannot be opened")

    monkeypatch.setattr("lineside_hub.identity.registrar.Authority.open", refuse)


@pytest.mark.usefixtures("locked")
def test_a_person_signs_where_the_hub_has_no_passphrase(
    service: EnrollmentService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = service.token(tmp_path)
    said: list[str] = []
    result: list[LinkConfig] = []
    device = threading.Thread(
        target=lambda: result.append(enroll(token, tmp_path / "own", timeout_s=60, progress=said.append))
    )
    began = time.monotonic()
    device.start()
    wait_for(lambda: waiting(service.authority.folder) == ["cam-1"], what="the request to wait")
    wait_for(lambda: any("lineside hub sign" in line for line in said), what="the device to say so")
    threading.Event().wait(1.0)
    asked = caplog.text.count("cam-1 waits for its certificate")
    assert 1 <= asked <= 1 + (time.monotonic() - began) / ENROLL_AGAIN_S, "an answer is no reason to ask again"
    with pytest.raises(InputNotFoundError):
        sign_waiting(service.authority, "cam-2")
    sign_waiting(service.authority, "cam-1")

    def answered() -> bool:
        service.registrar.publish_signed()
        return bool(result)

    wait_for(answered, what="the certificate")
    device.join(60)
    assert (tmp_path / "own" / "cert.pem").exists()


@pytest.mark.usefixtures("locked")
def test_what_was_signed_does_not_wait_for_a_person_again(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", site="t0")
    token = authority.token("cam-1", group="line")
    by = read_key(token.key.encode())
    answers: queue.Queue[CertificateAnswer] = queue.Queue()

    def publish(_device: str, payload: bytes) -> bool:
        answers.put(decode(payload, CertificateAnswer))
        return True

    registrar = Registrar(authority.folder, publish)
    registrar.start()

    def ask(request: CertificateRequest) -> CertificateAnswer:
        registrar.offer("cam-1", encode(request))
        return answers.get(timeout=60)

    request = make_request("cam-1", new_key(), signer=f"token:{token.id}", by=by)
    forged = make_request("cam-1", new_key(), signer=f"token:{token.id}", by=new_key())
    assert ask(forged).status == "refused"
    assert waiting(authority.folder) == [], "a person is not asked to sign what nobody may have"
    assert ask(request).status == "waiting"
    assert waiting(authority.folder) == ["cam-1"]
    signed = sign_waiting(authority, "cam-1")
    again = ask(request)  # it was under way when the person signed
    assert (again.status, again.certificate) == ("issued", signed.certificate)
    assert ask(make_request("cam-1", new_key(), signer=f"token:{token.id}", by=by)).status == "refused"
    assert waiting(authority.folder) == []
    registrar.close()


def test_a_late_word_that_a_person_must_sign_undoes_no_answer(service: EnrollmentService, tmp_path: Path) -> None:
    service.late_word = True
    enroll(service.token(tmp_path), tmp_path / "own", timeout_s=60)
    assert (tmp_path / "own" / "cert.pem").exists()


def test_junk_and_floods_stop_nobody(
    service: EnrollmentService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for payload in (b"\xff", b"{}", b"[" * 4000, b"x" * 10_000):
            service.registrar.offer("cam-1", payload)
        lying = CertificateRequest(device="cam-2", csr="", signer="", signature="")
        service.registrar.offer("cam-1", encode(lying))
        enroll(service.token(tmp_path), tmp_path / "own", timeout_s=60)
    assert "10000 bytes" in caplog.text


class Clock:
    def __init__(self, at: datetime.datetime) -> None:
        self.at = at

    def __call__(self) -> datetime.datetime:
        return self.at


def renewing(
    service: EnrollmentService, folder: Path, link: LinkConfig, now: Callable[[], datetime.datetime]
) -> DeviceIdentity:
    folder.mkdir(exist_ok=True)
    return DeviceIdentity(folder, link, "cam-1", ClockFloor(folder / "clock", now=now))


@contextmanager
def running(identity: DeviceIdentity, client: LinkClient) -> Iterator[None]:
    """Connects a client, and lets its identity ask for a certificate meanwhile."""
    client.subscribe(TOPICS.certificate("cam-1"), identity.received)
    client.start()
    assert client.wait_connected(60), client.last_error
    stop = threading.Event()
    thread = threading.Thread(target=identity.run, args=(client, TOPICS, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


def test_a_certificate_is_renewed_in_time_though_the_clock_is_unset(service: EnrollmentService, tmp_path: Path) -> None:
    link = enroll(service.token(tmp_path), tmp_path / "own", timeout_s=60)
    now = datetime.datetime.now(datetime.timezone.utc)
    folder = tmp_path / "state"
    folder.mkdir()
    seen = ClockFloor(folder / "clock")
    seen.raise_to(now + datetime.timedelta(days=600))  # 130 days before its end
    service.late_word = True
    unset = Clock(datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc))
    identity = renewing(service, folder, link, unset)
    assert identity.due()
    floor = ClockFloor(folder / "clock", now=unset)
    client = LinkClient(identity.config(), "cam-1", now=lambda: min(floor.now(), now))
    with running(identity, client):
        wait_for(lambda: identity.config() != link, what="the new certificate")
    assert identity.problem is None
    assert client.config == identity.config()
    fresh = LinkClient(identity.config(), "cam-1")
    client.close()
    fresh.start()
    assert fresh.wait_connected(60), fresh.last_error
    fresh.close()
    # Killed while it was written, or damaged: the old pair serves until the next renewal.
    Path(str(identity.config().key)).write_bytes(b"")
    assert identity.config() == link


def test_a_device_that_was_enrolled_again_uses_its_new_certificate(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", site="t0")
    now = datetime.datetime.now(datetime.timezone.utc)
    state = tmp_path / "state"
    state.mkdir()
    credentials = authority.enroll("cam-1", group="line")
    link = LinkConfig(
        "mqtts://127.0.0.1:1",
        "t0",
        ca=str(credentials.ca),
        certificate=str(credentials.certificate),
        key=str(credentials.key),
    )
    identity = DeviceIdentity(state, link, "cam-1", ClockFloor(state / "clock"))
    key = new_key()
    first = read_certificate(credentials.certificate.read_bytes())
    by, serial = read_key(credentials.key.read_bytes()), f"{first.serial_number:x}"
    issued = authority.answer(make_request("cam-1", key, signer=f"serial:{serial}", by=by)).decode()
    identity._install(CertificateAnswer(device="cam-1", request="", status="issued", certificate=issued), key)
    assert identity.config() != link

    with freeze_authority(days=731):  # the renewed one has expired, and the files of agent.toml are new
        authority.enroll("cam-1", group="line")
    assert identity.config() == link
    assert not DeviceIdentity(
        state, link, "cam-1", ClockFloor(tmp_path / "floor", now=lambda: now + datetime.timedelta(days=800))
    ).due()


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize(("days", "said"), [(720, "a person must sign the request"), (735, "expired at"), (500, "")])
def test_a_certificate_that_nobody_renews_becomes_a_problem(
    service: EnrollmentService, tmp_path: Path, days: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside_agent.hub_client.identity.REQUEST_AGAIN_S", 0.5)
    credentials = service.broker.enroll("cam-1")
    link = service.broker.config_with(credentials)
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    identity = renewing(service, tmp_path / "state", link, Clock(then))
    client = LinkClient(link, "cam-1")
    with closing(client), running(identity, client):
        wait_for(lambda: waiting(service.authority.folder) == ["cam-1"], what="the request")
        if said:
            wait_for(lambda: said in str(identity.problem), what="the problem")
        else:
            wait_for(lambda: identity._waits_for_person, what="the hub's answer")
            assert identity.problem is None


def test_a_clock_in_1970_connects_and_an_expired_broker_does_not(service: EnrollmentService, tmp_path: Path) -> None:
    link = enroll(service.token(tmp_path), tmp_path / "own", timeout_s=60)
    ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=800)
    for now, reached in ((datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc), True), (ends, False)):
        client = LinkClient(link, "cam-1", now=Clock(now))
        client.start()
        try:
            if reached:
                assert client.wait_connected(60), client.last_error
            else:
                wait_for(lambda: client.last_error is not None, what="the refusal")  # noqa: B023
                assert "expired" in str(client.last_error)
        finally:
            client.close()


def test_a_certificate_of_another_key_or_authority_is_not_taken(service: EnrollmentService, tmp_path: Path) -> None:
    link = enroll(service.token(tmp_path), tmp_path / "own", timeout_s=60)
    identity = renewing(service, tmp_path / "state", link, Clock(datetime.datetime.now(datetime.timezone.utc)))
    foreign = Authority.create(tmp_path / "foreign", site="t0").enroll("cam-1", group="line")
    mine = service.authority.enroll("cam-1", group="line")
    other = service.authority.enroll("cam-2", group="line")
    for pem, key in (
        (foreign.certificate, read_key(foreign.key.read_bytes())),
        (mine.certificate, new_key()),
        (other.certificate, read_key(other.key.read_bytes())),
        (other.key, new_key()),
    ):
        answer = CertificateAnswer(device="cam-1", request="", status="issued", certificate=pem.read_text())
        with pytest.raises(IdentityError):
            identity._install(answer, key)
    assert identity.config() == link


def test_a_life_is_due_in_its_last_third() -> None:
    begins = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    life = Life(begins, begins + datetime.timedelta(days=90))
    assert not life.due(begins + datetime.timedelta(days=59))
    assert life.due(begins + datetime.timedelta(days=61))
    assert life.due(begins + datetime.timedelta(days=100))


def test_the_command_enrols_and_shows_no_secret(service: EnrollmentService, tmp_path: Path) -> None:
    token = service.token(tmp_path)
    arguments = ["agent", "enroll", "--token-file", str(token), "--out", str(tmp_path / "own"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "lineside", "--log-level", "debug", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["link"]["url"] == service.broker.url
    secrets = [decode_token(token).key, (tmp_path / "own" / "key.pem").read_text()]
    for secret in secrets:
        body = secret.splitlines()[1]
        assert body not in done.stdout + done.stderr
        assert body not in service.broker.log


def decode_token(path: Path) -> EnrolmentToken:
    return msgspec.json.decode(path.read_bytes(), type=EnrolmentToken)


def test_the_hubs_commands_make_a_token_sign_and_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = str(tmp_path / "hub")
    assert main(["hub", "init", hub, "--site", "t0", "--group", "line"]) == 0
    assert main(["hub", "secure", "--hub", hub, "--host", "127.0.0.1"]) == 0
    out = tmp_path / "token"
    assert main(["hub", "token", "cam-1", "--group", "line", "--out", str(out), "--hub", hub]) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    token = decode_token(out)
    assert json.loads(token.root)["signed"]["_type"] == "root"
    request = make_request("cam-1", new_key(), signer=f"token:{token.id}", by=read_key(token.key.encode()))
    folder = tmp_path / "hub" / "identity"
    (folder / "requests").mkdir()
    (folder / "requests" / "cam-1.request.json").write_bytes(encode(request))
    capsys.readouterr()
    assert main(["hub", "sign", "--hub", hub]) == 0
    assert capsys.readouterr().out == "cam-1\n"
    assert main(["hub", "sign", "cam-1", "--hub", hub]) == 0
    answer = decode((folder / "requests" / "cam-1.answer.json").read_bytes(), CertificateAnswer)
    assert answer.status == "issued"
    assert main(["hub", "revoke", "cam-1", "--hub", hub]) == 0
    assert "cam-1" not in (folder / "mosquitto.acl").read_text()
    assert main(["hub", "revoke", "cam-1", "--hub", hub]) == 1
    printed = capsys.readouterr()
    assert token.key.splitlines()[1] not in printed.out + printed.err
