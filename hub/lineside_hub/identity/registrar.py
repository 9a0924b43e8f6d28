"""Answer the devices' requests for certificates.

If the authority's key is encrypted and the hub has no passphrase, a request waits in ``identity/requests`` for a person
who runs `sign_waiting`; the hub publishes the answer. Requests are bounded in size and number, because any device may
send them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from lineside_hub.folder_lock import folder_lock
from lineside_hub.identity.authority import Authority, issued_before
from lineside_link.messages import CertificateAnswer, CertificateRequest, Problem, decode, encode
from lineside_link.topics import NAME
from lineside_runtime.errors import (
    BadInputFormatError,
    IdentityError,
    InputNotFoundError,
    LinesideError,
    SignatureError,
)
from lineside_runtime.files import write_atomic

_log = logging.getLogger("lineside.hub.identity")

REQUEST_MAX_BYTES = 8192
WAITING_MAX = 200

PASSPHRASE_VARIABLE = "LINESIDE_PASSPHRASE"
"""Environment variable with the passphrase of the authority's key, if the hub may sign by itself."""


class Registrar(threading.Thread):
    """Queue and thread of requests for certificates.

    Args:
        folder: The authority's; without one every request is refused.
    """

    def __init__(self, folder: Path, publish: Callable[[str, bytes], bool]) -> None:
        super().__init__(name="hub-registrar", daemon=True)
        self._folder = folder
        self._publish = publish
        self._waiting: queue.Queue[tuple[str, bytes] | None] = queue.Queue(WAITING_MAX)

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Answers the waiting requests and ends the thread."""
        self._waiting.put(None)
        self.join(timeout_s)

    def offer(self, device: str, payload: bytes) -> None:
        """Queues a request; one that is too large or too many is dropped and logged, and the device repeats it.

        Args:
            device: Whose topic it came on.
            payload: `lineside_link.messages.CertificateRequest`.
        """
        if len(payload) > REQUEST_MAX_BYTES:
            _log.warning("a request of %s for a certificate was dropped: %d bytes", device, len(payload))
            return
        try:
            self._waiting.put_nowait((device, payload))
        except queue.Full:
            _log.warning("a request of %s for a certificate was dropped: %d wait", device, WAITING_MAX)

    def publish_signed(self) -> None:
        """Publishes answers that a person has signed; an answer is kept until the broker has it."""
        for path in sorted((self._folder / "requests").glob("*.answer.json")):
            device = path.name.removesuffix(".answer.json")
            if NAME.fullmatch(device) and self._publish(device, path.read_bytes()):
                path.unlink(missing_ok=True)

    def run(self) -> None:
        """Works until it is closed."""
        while (item := self._waiting.get()) is not None:
            device, payload = item
            try:
                answer = self._answer(device, decode(payload, CertificateRequest))
            except (LinesideError, OSError) as error:
                _log.warning("a request of %s for a certificate can't be answered: %s", device, error)
                continue
            self._publish(device, encode(answer))

    def _answer(self, device: str, request: CertificateRequest) -> CertificateAnswer:
        if request.device != device:
            raise BadInputFormatError(f"request on the topic of {device}", expected=device, actual=request.device)
        try:
            authority = Authority.open(self._folder, passphrase=os.environ.get(PASSPHRASE_VARIABLE))
        except SignatureError:
            return _answer_to(request, self._issued_or_queued)
        return answer(authority, request)

    def _issued_or_queued(self, request: CertificateRequest) -> bytes | None:
        """Returns an issued certificate or stores the request, under the same lock as `sign_waiting`.

        A device repeats its request until it is answered: a repeat from just before the signature must not wait again.
        """
        with folder_lock(self._folder):
            certificate = issued_before(self._folder, request)
            if certificate is None:
                self._queue(request)
        return certificate

    def _queue(self, request: CertificateRequest) -> None:
        folder = self._folder / "requests"
        folder.mkdir(exist_ok=True, mode=0o700)
        path = folder / f"{request.device}.request.json"
        if not path.exists() and len(list(folder.iterdir())) >= WAITING_MAX:
            raise BadInputFormatError("too many requests wait for a person", action="`lineside hub sign` signs them.")
        write_atomic(path, encode(request), mode=0o600)
        _log.warning("%s waits for its certificate: `lineside hub sign %s`", request.device, request.device)


def answer(authority: Authority, request: CertificateRequest) -> CertificateAnswer:
    """Returns the answer to a request: a certificate or an error."""
    return _answer_to(request, authority.answer)


def _answer_to(request: CertificateRequest, certify: Callable[[CertificateRequest], bytes | None]) -> CertificateAnswer:
    """Returns the answer for the outcome of ``certify``; ``None`` means that a person must sign."""
    digest = _digest(request)
    try:
        certificate = certify(request)
    except IdentityError as error:
        _log.warning("a request for a certificate was refused: %s", error)
        problem = Problem(**error.as_dict())
        return CertificateAnswer(device=request.device, request=digest, status="refused", error=problem)
    if certificate is None:
        return CertificateAnswer(device=request.device, request=digest, status="waiting")
    _log.info("%s has its certificate", request.device)
    return CertificateAnswer(device=request.device, request=digest, status="issued", certificate=certificate.decode())


def waiting(folder: Path) -> list[str]:
    """Returns the devices whose requests wait for a person."""
    return sorted(path.name.removesuffix(".request.json") for path in (folder / "requests").glob("*.request.json"))


def sign_waiting(authority: Authority, device: str) -> CertificateAnswer:
    """Answers a request that waits; the hub's process publishes the answer.

    Raises:
        InputNotFoundError: None of this device waits.
        BadInputFormatError: The request can't be read.
    """
    path = authority.folder / "requests" / f"{device}.request.json"
    if not NAME.fullmatch(device) or not path.is_file():
        names = ", ".join(waiting(authority.folder)) or "none"
        raise InputNotFoundError(f"no request of {device!r} waits", action=f"These do: {names}.")
    made = answer(authority, decode(path.read_bytes(), CertificateRequest))
    write_atomic(path.with_name(f"{device}.answer.json"), encode(made))
    path.unlink()
    return made


def _digest(request: CertificateRequest) -> str:
    return hashlib.sha256(request.csr.encode()).hexdigest()
