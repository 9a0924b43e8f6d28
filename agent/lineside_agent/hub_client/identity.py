"""The device's certificates: the first one, and their renewal.

::

    <folder>/identity/
    ├── <serial>/        cert.pem and key.pem: an issued pair that was checked
    └── current          names the pair in use; replaced by one rename, so that key and certificate always fit

The pair that was issued last is used: that of ``agent.toml`` until the first renewal, and again when a person has
enrolled the device anew. The time is that of the clock's floor: on a board that starts in 1970 a certificate is neither
valid for ever nor not valid yet.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lineside_link.certificates import (
    EnrolmentToken,
    Life,
    check_issued,
    common_name,
    key_bytes,
    make_request,
    new_key,
    read_certificate,
    read_key,
)
from lineside_link.client.client import LinkClient
from lineside_link.clock import ClockFloor
from lineside_link.config import LinkConfig
from lineside_link.messages import CertificateAnswer, decode, encode
from lineside_link.topics import Topics
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import ConfigError, FetchError, IdentityError, InputNotFoundError, LinesideError
from lineside_runtime.files import fsync_folder, write_atomic

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

log = logging.getLogger("lineside.agent.identity")

CHECK_EVERY_S = 3600.0
"""Time between two checks of the certificate's remaining life."""

REQUEST_AGAIN_S = 60.0
"""Time without an answer after which a request is sent again; the same request gets the same answer."""

ENROLL_AGAIN_S = 5.0
"""The same for a first certificate, where a person waits beside the device."""

WARN_DAYS = 30
"""Days before its end from which on a certificate that was not renewed is a problem."""


class DeviceIdentity:
    """The pair in use, and its renewal.

    Args:
        folder: The agent's state folder.
        link: The ``[link]`` table, with its certificate and key.

    Attributes:
        problem: Why the certificate was not renewed: at once if the hub refuses, otherwise from `WARN_DAYS` on.
    """

    def __init__(self, folder: Path, link: LinkConfig, device: str, clock: ClockFloor) -> None:
        self._state = folder
        self._folder = folder / "identity"
        self._configured = link
        self._device = device
        self._clock = clock
        self._wake = threading.Event()
        self._answers: dict[str, CertificateAnswer] = {}
        self._waits_for_person = False
        self.problem: LinesideError | None = None

    def config(self) -> LinkConfig:
        """As `link_in_use`."""
        return link_in_use(self._state, self._configured)

    def received(self, _topic: str, payload: bytes) -> None:
        """Takes an answer of the authority."""
        if payload:
            answer = decode(payload, CertificateAnswer)
            if final(answer):  # one that says that a person must sign may come after the person's
                self._answers = {answer.request: answer}
                self._wake.set()
            else:
                self._waits_for_person = True

    def kick(self) -> None:
        """Takes a new connection."""
        self._wake.set()

    def run(self, client: LinkClient, topics: Topics, stop: threading.Event) -> None:
        """Renews in the caller's thread until stopped."""
        while not stop.is_set():
            try:
                if self.due():
                    self._renew(client, topics, stop)
                self.problem = None
            except (LinesideError, OSError) as error:
                known = error if isinstance(error, LinesideError) else ConfigError(str(error))
                if str(known) != str(self.problem):
                    log.error("the certificate was not renewed: %s", known)
                self.problem = known
            self._wait(CHECK_EVERY_S, stop)

    def due(self) -> bool:
        """Whether the certificate in use has less than a third of its life left."""
        certificate, _ = self._pair()
        return Life.of(certificate).due(self._clock.now())

    def _pair(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        return _read_pair(self.config())

    def _wait(self, timeout_s: float, stop: threading.Event) -> bool:
        left = timeout_s
        while left > 0 and not stop.is_set():
            if self._wake.wait(min(left, 0.5)):
                self._wake.clear()
                return True
            left -= 0.5
        return False

    def _renew(self, client: LinkClient, topics: Topics, stop: threading.Event) -> None:
        certificate, by = self._pair()
        key = new_key()
        serial = f"{certificate.serial_number:x}"
        request = make_request(self._device, key, signer=f"serial:{serial}", by=by)
        digest = hashlib.sha256(request.csr.encode()).hexdigest()
        log.info("the certificate ends at %s; a new one is requested", certificate.not_valid_after_utc.isoformat())
        self._waits_for_person = False
        self._note_delay(certificate, client)
        while not stop.is_set():
            if client.connected:
                client.publish(topics.certificate_request(self._device), encode(request))
            self._wait(REQUEST_AGAIN_S, stop)
            answer = self._answers.get(digest)
            if answer is not None:
                self._install(answer, key)
                client.use(self.config())
                return
            self._note_delay(certificate, client)

    def _note_delay(self, certificate: x509.Certificate, client: LinkClient) -> None:
        """Sets `problem` if the certificate ends soon; a change is logged."""
        ends, now = certificate.not_valid_after_utc, self._clock.now()
        if ends - now > datetime.timedelta(days=WARN_DAYS):
            return
        why, action = "the hub does not answer the request", "Look at the hub: lineside hub status."
        if now > ends:
            why, action = "it can no longer be renewed", "Enroll the device again: lineside hub enroll."
        elif not client.connected:
            why, action = "there is no connection to the hub", "Let the device reach the hub before that time."
        elif self._waits_for_person:
            why, action = "a person must sign the request", f"At the hub: lineside hub sign {self._device}."
        told = "expired" if now > ends else "expires"
        problem = IdentityError(f"this device's certificate {told} at {ends:%Y-%m-%d %H:%M} UTC: {why}", action=action)
        if str(problem) != str(self.problem):
            log.warning("%s", problem)
        self.problem = problem

    def _install(self, answer: CertificateAnswer, key: ec.EllipticCurvePrivateKey) -> None:
        pem = issued_pem(answer, authority=Path(str(self._configured.ca)).read_bytes(), device=self._device, key=key)
        serial = f"{read_certificate(pem).serial_number:x}"
        pair = self._folder / serial
        pair.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(pair / "key.pem", key_bytes(key), mode=0o600)
        write_atomic(pair / "cert.pem", pem)
        fsync_folder(self._folder)
        write_atomic(self._folder / "current", serial.encode())
        log.info("a new certificate is used from the next connection on")
        for old in self._folder.iterdir():
            if old.is_dir() and old.name != serial:
                shutil.rmtree(old, ignore_errors=True)


def link_in_use(folder: Path, configured: LinkConfig) -> LinkConfig:
    """Returns the link's configuration with the pair that the device connects with: the usable one issued last.

    Args:
        folder: The agent's state folder.
        configured: The ``[link]`` table, with its certificate and key.
    """
    try:
        serial = (folder / "identity" / "current").read_text(encoding="ascii").strip()
        pair = folder / "identity" / Path(serial).name
        renewed = msgspec.structs.replace(configured, certificate=str(pair / "cert.pem"), key=str(pair / "key.pem"))
        certificate, _ = _read_pair(renewed)
    except FileNotFoundError:
        return configured
    except (LinesideError, OSError, ValueError) as error:
        log.error("the renewed certificate can't be used, the one of agent.toml is: %s", error)
        return configured
    try:
        enrolled, _ = _read_pair(configured)
    except (LinesideError, OSError, ValueError):
        return renewed
    return configured if enrolled.not_valid_before_utc > certificate.not_valid_before_utc else renewed


def _read_pair(link: LinkConfig) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Reads certificate and key, which must belong together and be of the authority that the link trusts."""
    public = read_certificate(Path(str(link.certificate)).read_bytes())
    private = read_key(Path(str(link.key)).read_bytes())
    authority = read_certificate(Path(str(link.ca)).read_bytes())
    check_issued(public, authority=authority, device=common_name(public.subject), key=private)
    return public, private


def final(answer: CertificateAnswer) -> bool:
    """Whether no other answer follows: the certificate was issued or refused, and no person needs to sign."""
    return answer.status != "waiting"


def issued_pem(answer: CertificateAnswer, *, authority: bytes, device: str, key: object) -> bytes:
    """Returns the certificate of an answer, after checking that it is the one that was requested."""
    if answer.status != "issued":
        reason = f": {answer.error.text}" if answer.error is not None else ""
        raise IdentityError(f"the hub refused the request{reason}")
    pem = answer.certificate.encode()
    check_issued(read_certificate(pem), authority=read_certificate(authority), device=device, key=key)
    return pem


def enroll(
    token_file: Path,
    folder: Path,
    *,
    url: str | None = None,
    timeout_s: float = 120.0,
    progress: Callable[[str], None] = log.info,
) -> LinkConfig:
    """Requests this device's first certificate; the private key is made here and never leaves the device.

    Args:
        token_file: From ``lineside hub token``.
        folder: Gets ``ca.pem``, ``cert.pem``, ``key.pem`` and ``root.json``; made if it is not there.
        url: Of the broker, instead of the token's.
        timeout_s: Longest wait, also for a person at the hub.
        progress: Takes what is waited for.

    Returns:
        The ``[link]`` table for the device's ``agent.toml``.

    Raises:
        InputNotFoundError: There is no such token.
        ConfigError: It is no token, or the folder holds an identity already.
        IdentityError: The hub refuses: the token was used, has expired, or is another device's.
        FetchError: Nobody answered in time.
    """
    token = read_token(token_file)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (folder / "cert.pem").exists():
        raise ConfigError(f"{folder} holds an identity already", action="Choose another folder.")
    clock = ClockFloor(folder / "clock")
    clock.raise_to(token.issued_at)
    key = _own_key(folder)
    with _claim_files(folder, token) as (certificate, claim_key):
        config = LinkConfig(
            url=url or token.url, site=token.site, ca=str(folder / "ca.pem"), certificate=certificate, key=claim_key
        )
        pem = _ask(token, config, key, clock=clock, timeout_s=timeout_s, progress=progress)
    write_atomic(folder / "root.json", token.root.encode())
    write_atomic(folder / "cert.pem", pem)
    return msgspec.structs.replace(config, certificate=str(folder / "cert.pem"), key=str(folder / "key.pem"))


def read_token(path: Path) -> EnrolmentToken:
    """Reads a token's file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputNotFoundError(
            f"{path}: {error.strerror}", action="`lineside hub token DEVICE` makes one."
        ) from error
    try:
        return decode_json(data, type=EnrolmentToken)
    except msgspec.DecodeError as error:
        # The decoder's words are left out: they could quote the secret.
        raise ConfigError(f"{path} is no token", action="`lineside hub token DEVICE` makes one.") from error


def _own_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """Returns the key, which survives a failed attempt, so that the same token requests the same key again."""
    path = folder / "key.pem"
    if path.exists():
        return read_key(path.read_bytes())
    key = new_key()
    write_atomic(path, key_bytes(key), mode=0o600)
    return key


@contextlib.contextmanager
def _claim_files(folder: Path, token: EnrolmentToken) -> Iterator[tuple[str, str]]:
    write_atomic(folder / "ca.pem", token.ca.encode())
    certificate, key = folder / ".claim-cert.pem", folder / ".claim-key.pem"
    try:
        write_atomic(certificate, token.certificate.encode())
        write_atomic(key, token.key.encode(), mode=0o600)
        yield str(certificate), str(key)
    finally:
        certificate.unlink(missing_ok=True)
        key.unlink(missing_ok=True)


def _ask(
    token: EnrolmentToken,
    config: LinkConfig,
    key: ec.EllipticCurvePrivateKey,
    *,
    clock: ClockFloor,
    timeout_s: float,
    progress: Callable[[str], None],
) -> bytes:
    topics = Topics(token.site)
    request = make_request(token.device, key, signer=f"token:{token.id}", by=read_key(token.key.encode()))
    digest = hashlib.sha256(request.csr.encode()).hexdigest()
    name = common_name(read_certificate(token.certificate.encode()).subject)
    client = LinkClient(config, name, now=clock.now)
    last: list[CertificateAnswer] = []  # one that says that a person must sign may come after it
    waits, arrived = threading.Event(), threading.Event()

    def received(_topic: str, payload: bytes) -> None:
        if payload and (answer := decode(payload, CertificateAnswer)).request == digest:
            if final(answer):
                last.append(answer)
                arrived.set()
            else:
                waits.set()

    client.subscribe(topics.certificate(token.device), received)
    client.start()
    ask_at = time.monotonic()
    deadline = ask_at + timeout_s
    reported = ""
    try:
        while (now := time.monotonic()) < deadline:
            if client.connected and now >= ask_at:
                client.publish(topics.certificate_request(token.device), encode(request))
                ask_at = now + ENROLL_AGAIN_S
            if arrived.wait(0.2):
                return issued_pem(last[0], authority=token.ca.encode(), device=token.device, key=key)
            state = _state(client, waits=waits.is_set())
            if state != reported:
                reported = state
                progress(state)
    finally:
        client.close()
    raise FetchError(
        f"no certificate within {timeout_s:g} s: {reported or 'no answer'}", action="Run it again: it goes on."
    )


def _state(client: LinkClient, *, waits: bool) -> str:
    if waits:
        return "a person must sign at the hub: lineside hub sign"
    if client.connected:
        return "connected; waiting for the hub"
    return f"not connected: {client.last_error}" if client.last_error else "connecting"
