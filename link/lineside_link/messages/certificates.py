"""Requests of devices for certificates."""

from __future__ import annotations

from typing import Literal

from lineside_link.messages.base import Message, Problem


class CertificateRequest(Message, frozen=True, kw_only=True):
    """Requests a certificate: the first with a token, later ones with the present certificate.

    Attributes:
        device: Its name.
        csr: PKCS #10 in PEM; its common name is the device.
        signer: Key of ``signature``: ``token:<id>`` or ``serial:<hexadecimal>`` of a certificate.
        signature: ECDSA over the request, base64.
    """

    device: str
    csr: str
    signer: str
    signature: str


class CertificateAnswer(Message, frozen=True, kw_only=True):
    """Answer of the certificate authority.

    Attributes:
        device: Whose request this answers.
        request: sha256 of its ``csr``, hexadecimal.
        status: ``waiting`` if a person must sign: the answer follows on the same topic.
        certificate: In PEM, once issued.
        error: Why not, if refused.
    """

    device: str
    request: str
    status: Literal["issued", "waiting", "refused"]
    certificate: str = ""
    error: Problem | None = None
