"""Keys, requests and certificates of the link: what a device and the authority both need.

A request for a certificate carries a second signature beside the CSR's own: of the key that the authority already
knows for this device, from a token or from a certificate that it gave before. So a request needs no trust in the
broker that carries it. `cryptography` is imported when it is used.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
from typing import TYPE_CHECKING

import msgspec

from lineside_link.messages import CertificateRequest
from lineside_runtime.errors import ConfigError, IdentityError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_CONTEXT = b"lineside certificate request 1\n"
"""Stands before what is signed, so that the signature serves for nothing else."""

RENEW_BELOW = 1 / 3
"""Share of its life below which a certificate is renewed."""


class EnrolmentToken(msgspec.Struct, frozen=True, kw_only=True):
    """A file of mode 0600 with which a device requests its first certificate.

    Attributes:
        issued_at: Lower bound for the device's clock.
        ca: The authority's certificate in PEM: the only one that the device trusts.
        certificate: The token's own, which only allows the request.
        key: Its private key in PEM: the secret.
        url: Of the broker.
        root: The TUF root in JSON, which the device trusts from then on.
    """

    id: str
    device: str
    group: str
    issued_at: datetime.datetime
    ca: str
    certificate: str
    key: str
    url: str
    site: str
    root: str


def new_key() -> ec.EllipticCurvePrivateKey:
    """Returns a new private key on the curve P-256, which every TLS stack knows."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Returns a private key as PEM; its file must have mode 0600."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Reads a private key from PEM.

    Raises:
        ConfigError: It is none.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise ConfigError("the private key can't be read", action="Enrol the device again.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("the private key", expected="an elliptic curve key", actual=type(key).__name__)
    return key


def read_certificate(data: bytes) -> x509.Certificate:
    """Reads a certificate from PEM.

    Raises:
        IdentityError: It is none.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise IdentityError("not a certificate in PEM", action="Enrol the device again.") from error


def common_name(subject: x509.Name) -> str:
    """Returns the one common name of a subject, or an empty string."""
    from cryptography.x509.oid import NameOID

    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def make_request(
    device: str, key: ec.EllipticCurvePrivateKey, *, signer: str, by: ec.EllipticCurvePrivateKey
) -> CertificateRequest:
    """Returns a request for a certificate.

    Args:
        device: Its name, the certificate's common name.
        key: The new key; only its public half travels.
        signer: ``token:<id>`` or ``serial:<hexadecimal>``: what the authority knows ``by`` from.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    text = csr.public_bytes(Encoding.PEM).decode()
    signature = by.sign(_CONTEXT + signer.encode() + b"\n" + text.encode(), ec.ECDSA(hashes.SHA256()))
    return CertificateRequest(device=device, csr=text, signer=signer, signature=base64.b64encode(signature).decode())


def check_request(request: CertificateRequest, by: ec.EllipticCurvePublicKey) -> ec.EllipticCurvePublicKey:
    """Checks both signatures of a request and that it names its device; returns the public key to certify.

    Args:
        by: The key that the authority knows for `CertificateRequest.signer`.

    Raises:
        IdentityError: Not a request, a wrong signature, another name, or a key of another kind.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        csr = x509.load_pem_x509_csr(request.csr.encode())
        signed = _CONTEXT + request.signer.encode() + b"\n" + request.csr.encode()
        by.verify(base64.b64decode(request.signature, validate=True), signed, ec.ECDSA(hashes.SHA256()))
        valid = csr.is_signature_valid
        key = csr.public_key()
    except (ValueError, binascii.Error, InvalidSignature) as error:
        raise IdentityError(f"the request of {request.device} is not signed by a key that is known for it") from error
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(f"the request of {request.device}", expected="a P-256 key that signed its own request")
    if common_name(csr.subject) != request.device:
        raise IdentityError(
            "the request names another device", expected=request.device, actual=common_name(csr.subject)
        )
    return key


def check_issued(certificate: x509.Certificate, *, authority: x509.Certificate, device: str, key: object) -> None:
    """Checks that a certificate is the one that was asked for.

    Args:
        authority: That must have issued it.
        device: That it must name.
        key: The private key that it must belong to.

    Raises:
        IdentityError: It is another.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IdentityError("the certificate is of another authority") from error
    if common_name(certificate.subject) != device:
        raise IdentityError("the certificate names another", expected=device, actual=common_name(certificate.subject))
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        raise IdentityError("the certificate is of another key")


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """From when to when a certificate is good."""

    begins: datetime.datetime
    ends: datetime.datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Life:
        """Reads it."""
        return cls(certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    def due(self, now: datetime.datetime) -> bool:
        """Whether less than `RENEW_BELOW` of it is left.

        Args:
            now: A time that doesn't go back: `lineside_link.clock.ClockFloor.now`.
        """
        return (self.ends - now) < (self.ends - self.begins) * RENEW_BELOW
