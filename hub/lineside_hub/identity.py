"""`Authority`: who is who on the link, by certificates; the common name (CN) is the device's name.

::

    ca/
    ├── ca.pem, ca.key        the authority; the key encrypted if a passphrase is given
    ├── enrolled.json         device to group
    └── issued/<name>/        ca.pem, cert.pem, key.pem: what is copied to a device, the broker, the hub

Renewal and revocation are not here yet: a certificate lives for two years, and a device that is lost is shut
out by taking it off the access list (`access.py`).
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from lineside_hub.lock import folder_lock
from lineside_link.topics import check_name
from lineside_runtime.errors import ConfigError, InputNotFoundError, SignatureError
from lineside_runtime.files import write_atomic

HUB_NAME = "lineside-hub"
"""CN of the hub's own certificate."""

BROKER_NAME = "lineside-broker"
"""CN of the broker's certificate."""

CA_LIFETIME_DAYS = 3650
LIFETIME_DAYS = 730


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """Three files in PEM that prove a name.

    Attributes:
        ca: The authority's certificate.
        certificate: One's own.
        key: Its private key, mode 0600.
    """

    ca: Path
    certificate: Path
    key: Path


class Authority:
    """Issues certificates for one site.

    Attributes:
        folder: Holds the authority's files.
    """

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, folder: Path | str, *, site: str, passphrase: str | None = None) -> Authority:
        """Makes a new authority.

        Args:
            folder: Made if it is not there.
            site: Name of the site.
            passphrase: Encrypts the authority's key, if given.

        Raises:
            ConfigError: There is one already, or the site's name cannot be used.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (path / "ca.pem").exists():
            raise ConfigError(f"{path} holds an authority already", action="Open it, or choose another folder.")
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"lineside {check_name(site, 'site')}")
        builder = _builder(name, name, key.public_key(), CA_LIFETIME_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(authority=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        certificate = builder.sign(key, hashes.SHA256())
        encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        write_atomic(path / "ca.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), mode=0o600)
        write_atomic(path / "ca.pem", certificate.public_bytes(Encoding.PEM))
        return cls(path, certificate, key)

    @classmethod
    def open(cls, folder: Path | str, *, passphrase: str | None = None) -> Authority:
        """Opens an authority.

        Raises:
            InputNotFoundError: There is none.
            SignatureError: The passphrase does not open its key.
        """
        path = Path(folder)
        try:
            certificate = x509.load_pem_x509_certificate((path / "ca.pem").read_bytes())
            data = (path / "ca.key").read_bytes()
        except FileNotFoundError as error:
            action = "Make one with Authority.create first."
            raise InputNotFoundError(f"{path} holds no authority", action=action) from error
        try:
            encrypted = b"ENCRYPTED PRIVATE KEY" in data
            key = load_pem_private_key(data, passphrase.encode() if passphrase and encrypted else None)
        except (ValueError, TypeError) as error:
            action = "Give the passphrase that it was made with."
            raise SignatureError("the authority's key cannot be opened", action=action) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SignatureError("the authority's key", expected="an elliptic curve key", actual=type(key).__name__)
        return cls(path, certificate, key)

    def enroll(self, device: str, *, group: str) -> Credentials:
        """Issues a device's certificate and notes its group; the last one issued is the one to use.

        Args:
            device: Its name, the certificate's CN.
            group: Whose wishes it may read.

        Raises:
            ConfigError: A name cannot be used.
        """
        check_name(device, "device")
        check_name(group, "group")
        if device in (HUB_NAME, BROKER_NAME):
            action = "Choose another name."
            raise ConfigError(f"device name {device!r}", expected="not the hub's or the broker's", action=action)
        with folder_lock(self.folder):
            enrolled = {**self.devices(), device: group}
            write_atomic(self.folder / "enrolled.json", msgspec.json.encode(enrolled))
        return self._issue(device, usage=ExtendedKeyUsageOID.CLIENT_AUTH)

    def hub(self) -> Credentials:
        """Issues the certificate with which the hub connects to the broker."""
        return self._issue(HUB_NAME, usage=ExtendedKeyUsageOID.CLIENT_AUTH)

    def broker(self, hosts: Sequence[str]) -> Credentials:
        """Issues the broker's certificate.

        Args:
            hosts: Names and addresses under which hub and devices reach it.

        Raises:
            ConfigError: No host is given.
        """
        if not hosts:
            raise ConfigError("the broker's certificate names no host", expected="at least one name or address")
        return self._issue(BROKER_NAME, usage=ExtendedKeyUsageOID.SERVER_AUTH, hosts=hosts)

    def devices(self) -> dict[str, str]:
        """Returns the group of each enrolled device."""
        return enrolled_devices(self.folder)

    def _issue(self, name: str, *, usage: ObjectIdentifier, hosts: Sequence[str] = ()) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._certificate.subject, key.public_key(), LIFETIME_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(authority=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if hosts:
            alternatives = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        folder = self.folder / "issued" / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        credentials = Credentials(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomic(credentials.key, private, mode=0o600)
        write_atomic(credentials.certificate, certificate.public_bytes(Encoding.PEM))
        write_atomic(credentials.ca, self._certificate.public_bytes(Encoding.PEM))
        return credentials


def enrolled_devices(folder: Path) -> dict[str, str]:
    """Returns the group of each enrolled device; needs no key.

    Args:
        folder: The authority's.
    """
    path = folder / "enrolled.json"
    return msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else {}


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # A board without a clock battery may lag by hours after a cold start.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
