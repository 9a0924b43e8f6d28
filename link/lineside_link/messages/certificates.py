"""Requests of devices for certificates."""

from __future__ import annotations

from typing import Literal

from lineside_link.messages.base import Message, Problem


class CertificateRequest(Message, frozen=True, kw_only=True):
    """A device asks for a certificate: the first one with a token, the next ones with the one that it has.

    Attributes:
        device: Its name.
        csr: PKCS #10 in PEM; its common name is the device.
        signer: Whose key made ``signature``: ``token:<id>`` or ``serial:<hexadecimal>`` of a certificate.
        signature: ECDSA over the request, base64.
    """

    device: str
    csr: str
    signer: str
    signature: str


class CertificateAnswer(Message, frozen=True, kw_only=True):
    """The authority's answer.

    Attributes:
        device: Whose request this answers.
        request: sha256 of its ``csr``, hexadecimal.
        status: ``waiting`` where a person must sign: the answer comes later on the same topic.
        certificate: In PEM, once issued.
        error: Why not, if refused.
    """

    device: str
    request: str
    status: Literal["issued", "waiting", "refused"]
    certificate: str = ""
    error: Problem | None = None
