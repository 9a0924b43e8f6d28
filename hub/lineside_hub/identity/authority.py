"""The certificate authority of a site; the common name is the device's name.

::

    ca/
    ├── ca.pem, ca.key        the authority; the key encrypted if a passphrase is given
    ├── ca.crl                revoked certificates; the broker reads it
    ├── enrolled.json         device to group
    ├── registry.json         every certificate and token that was issued
    ├── requests/             requests that wait for a person to sign
    └── issued/<name>/        ca.pem, cert.pem, key.pem for a device, the broker or the hub

A device gets its first certificate and key from here (`Authority.enroll`), or makes a key itself and requests a
certificate with a token. A certificate is valid for two years; a device requests the next one when a third of that is
left.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lineside_hub.folder_lock import folder_lock
from lineside_hub.identity.registry import CertificateKind, Claim, IssuedCertificate, Registry
from lineside_hub.repository.key_encryption import PASSPHRASE_ACTION, key_pem
from lineside_link.certificates import EnrolmentToken, check_request, key_bytes, new_key, read_certificate
from lineside_link.messages import CertificateRequest
from lineside_link.topics import check_name
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import ConfigError, IdentityError, InputNotFoundError, SignatureError
from lineside_runtime.files import write_atomic

HUB_NAME = "lineside-hub"
"""CN of the hub's own certificate."""

BROKER_NAME = "lineside-broker"
"""CN of the broker's certificate."""

CA_LIFETIME_DAYS = 3650
LIFETIME_DAYS = 730
CLAIM_PREFIX = "claim-"
"""Start of the common name of a token's certificate; no device may have such a name."""

TOKEN_HOURS = 24.0

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*")


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """Files of one identity, in PEM.

    Attributes:
        key: Its private key, mode 0600.
    """

    ca: Path
    certificate: Path
    key: Path


class Authority:
    """Issues certificates for one site."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, folder: Path | str, *, site: str, passphrase: str | None = None) -> Authority:
        """Makes a new authority.

        Args:
            folder: Made if it is not there.
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
        write_atomic(path / "ca.key", key_pem(key, passphrase.encode() if passphrase else None), mode=0o600)
        authority = cls(path, certificate, key)
        authority._write_revoked(Registry())
        write_atomic(path / "ca.pem", certificate.public_bytes(Encoding.PEM))
        return authority

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
            action = "Make one first: lineside hub secure."
            raise InputNotFoundError(f"{path} holds no authority", action=action) from error
        try:
            encrypted = b"ENCRYPTED PRIVATE KEY" in data
            key = load_pem_private_key(data, passphrase.encode() if passphrase and encrypted else None)
        except (ValueError, TypeError) as error:
            what = "needs a passphrase" if encrypted and not passphrase else "cannot be opened"
            raise SignatureError(f"the authority's key {what}", action=PASSPHRASE_ACTION) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SignatureError("the authority's key", expected="an elliptic curve key", actual=type(key).__name__)
        return cls(path, certificate, key)

    def enroll(self, device: str, *, group: str) -> Credentials:
        """Issues a device's certificate and stores its group; the last one issued is valid.

        Args:
            group: The group whose desired states it may read.

        Raises:
            ConfigError: A name cannot be used.
        """
        _check_device(device, group)
        with folder_lock(self.folder):
            self._note_group(device, group)
            return self._issue_with_key(device, kind="device")

    def token(self, device: str, *, group: str, hours: float = TOKEN_HOURS) -> EnrolmentToken:
        """Makes a token with which a device requests its first certificate, once; its key never leaves the device.

        Raises:
            ConfigError: A name cannot be used.
        """
        _check_device(device, group)
        if not 0 < hours <= 24 * 90:
            raise ConfigError("hours of the token", expected="up to 2160 (90 days)", actual=hours)
        identifier = secrets.token_hex(6)
        key = new_key()
        with folder_lock(self.folder):
            self._note_group(device, group)
            registry = Registry.read(self.folder)
            name = f"{CLAIM_PREFIX}{identifier}"
            issued = self._issue(registry, name, key.public_key(), kind="claim", days=hours / 24)
            registry.claims[identifier] = Claim(
                id=identifier, device=device, group=group, ends=issued.ends, serial=issued.serial
            )
            registry.write(self.folder)
        return EnrolmentToken(
            id=identifier,
            device=device,
            group=group,
            issued_at=_now(),
            ca=self.ca_bytes().decode(),
            certificate=issued.certificate,
            key=key_bytes(key).decode(),
            url="",
            site="",
            root="",
        )

    def ca_bytes(self) -> bytes:
        """Returns the authority's certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def answer(self, request: CertificateRequest) -> bytes:
        """Signs a device's request; returns the certificate as PEM; the same one for the same key.

        Args:
            request: As it came; from whom does not matter, its signature does.

        Raises:
            IdentityError: No known key of the device signed it, or the token was used or has expired.
        """
        with folder_lock(self.folder):
            registry = Registry.read(self.folder)
            public, claim, known = _check(registry, request)
            if known is not None:
                return known.certificate.encode()
            issued = self._issue(registry, request.device, public, kind="device")
            if claim is not None:
                registry.claims[claim.id] = msgspec.structs.replace(claim, issued=issued.serial)
            registry.write(self.folder)
        return issued.certificate.encode()

    def revoke(self, device: str) -> int:
        """Revokes all certificates and tokens of a device and removes its enrolment.

        Returns:
            How many certificates were revoked.

        Raises:
            ConfigError: There is no such device.
        """
        with folder_lock(self.folder):
            registry = Registry.read(self.folder)
            tokens = {claim.serial for claim in registry.claims.values() if claim.device == device}
            revoked = [
                issued for issued in registry.certificates.values() if issued.name == device or issued.serial in tokens
            ]
            revoked = [issued for issued in revoked if issued.revoked is None]
            if device not in self.devices() and not revoked:
                raise ConfigError(f"no device {device!r} is enrolled", action="The name is its certificate's.")
            for issued in revoked:
                registry.certificates[issued.serial] = msgspec.structs.replace(issued, revoked=_now())
            left = {name: group for name, group in self.devices().items() if name != device}
            self._write_revoked(registry)
            registry.write(self.folder)
            write_atomic(self.folder / "enrolled.json", msgspec.json.encode(left))
        return len(revoked)

    def _write_revoked(self, registry: Registry) -> None:
        """Writes the revocation list. It must not expire before the authority: OpenSSL would refuse everybody."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(_now() - datetime.timedelta(days=1))
        builder = builder.next_update(self.certificate.not_valid_after_utc)
        for issued in registry.certificates.values():
            if issued.revoked is not None:
                entry = x509.RevokedCertificateBuilder().serial_number(int(issued.serial, 16))
                builder = builder.add_revoked_certificate(entry.revocation_date(issued.revoked).build())
        crl = builder.sign(self._key, hashes.SHA256())
        write_atomic(self.folder / "ca.crl", crl.public_bytes(Encoding.PEM))

    def _note_group(self, device: str, group: str) -> None:
        enrolled = {**self.devices(), device: group}
        write_atomic(self.folder / "enrolled.json", msgspec.json.encode(enrolled))

    def hub(self) -> Credentials:
        """Issues the certificate with which the hub connects to the broker."""
        with folder_lock(self.folder):
            return self._issue_with_key(HUB_NAME, kind="hub")

    def broker(self, hosts: Sequence[str]) -> Credentials:
        """Issues the broker's certificate.

        Args:
            hosts: Names and addresses under which hub and devices reach it.

        Raises:
            ConfigError: No host is given, or one that a certificate can't name.
        """
        check_hosts(hosts)
        with folder_lock(self.folder):
            return self._issue_with_key(BROKER_NAME, kind="broker", hosts=hosts)

    def devices(self) -> dict[str, str]:
        """Returns the group of each enrolled device."""
        return enrolled_devices(self.folder)

    def _issue_with_key(self, name: str, *, kind: CertificateKind, hosts: Sequence[str] = ()) -> Credentials:
        key = new_key()
        registry = Registry.read(self.folder)
        issued = self._issue(registry, name, key.public_key(), kind=kind, hosts=hosts)
        registry.write(self.folder)
        folder = self.folder / "issued" / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        credentials = Credentials(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        write_atomic(credentials.key, key_bytes(key), mode=0o600)
        write_atomic(credentials.certificate, issued.certificate.encode())
        write_atomic(credentials.ca, self.ca_bytes())
        return credentials

    def _issue(
        self,
        registry: Registry,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        *,
        kind: CertificateKind,
        days: float = LIFETIME_DAYS,
        hosts: Sequence[str] = (),
    ) -> IssuedCertificate:
        """Signs and registers a certificate; the caller holds the folder's lock and writes the registry."""
        usage = ExtendedKeyUsageOID.SERVER_AUTH if kind == "broker" else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = _builder(_name(name), self.certificate.subject, public_key, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(authority=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if hosts:
            alternatives = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        issued = IssuedCertificate(
            serial=f"{certificate.serial_number:x}",
            name=name,
            kind=kind,
            ends=certificate.not_valid_after_utc,
            certificate=certificate.public_bytes(Encoding.PEM).decode(),
        )
        registry.certificates[issued.serial] = issued
        return issued


def read_claims(folder: Path) -> dict[str, str]:
    """Returns the device of each token's certificate name, for tokens that can still be used; no key is needed."""
    registry = Registry.read(folder)
    return {
        f"{CLAIM_PREFIX}{claim.id}": claim.device
        for claim in registry.claims.values()
        if claim.ends > _now() and registry.certificates[claim.serial].revoked is None
    }


def _check_signer(registry: Registry, request: CertificateRequest) -> tuple[ec.EllipticCurvePublicKey, Claim | None]:
    """Returns the key to certify, and the token that the request uses, if it is one."""
    kind, _, value = request.signer.partition(":")
    claim = registry.claims.get(value) if kind == "token" else None
    serial = claim.serial if claim is not None else value
    known = registry.certificates.get(serial)
    if known is None or kind not in ("token", "serial"):
        raise IdentityError(f"the request of {request.device} is signed by an unknown key")
    whose = claim.device if claim is not None else known.name
    if whose != request.device or known.kind != ("claim" if claim is not None else "device"):
        raise IdentityError("a key of another device signed the request", expected=request.device, actual=whose)
    if known.revoked is not None:
        raise IdentityError(f"the key that signed the request of {request.device} is revoked")
    if known.ends < _now():
        raise IdentityError(f"the key that signed the request of {request.device} expired at {known.ends.isoformat()}")
    signer = read_certificate(known.certificate.encode()).public_key()
    if not isinstance(signer, ec.EllipticCurvePublicKey):
        raise IdentityError(f"certificate {serial}", expected="an elliptic curve key")
    return check_request(request, signer), claim


def _check(
    registry: Registry, request: CertificateRequest
) -> tuple[ec.EllipticCurvePublicKey, Claim | None, IssuedCertificate | None]:
    """Returns the result of `_check_signer`, and an earlier certificate of the same key: its answer was lost."""
    public, claim = _check_signer(registry, request)
    for known in registry.of(request.device):
        if read_certificate(known.certificate.encode()).public_key() == public:
            return public, claim, known
    if claim is not None and claim.issued:
        raise IdentityError(f"token {claim.id} was used before, with another key")
    return public, claim, None


def issued_before(folder: Path, request: CertificateRequest) -> bytes | None:
    """Checks a request without the authority's key; the caller holds the folder's lock.

    Returns:
        The certificate in PEM that was issued for the same key before, or ``None``.

    Raises:
        IdentityError: As `Authority.answer`.
    """
    _, _, known = _check(Registry.read(folder), request)
    return known.certificate.encode() if known is not None else None


def _check_device(device: str, group: str) -> None:
    check_name(device, "device")
    check_name(group, "group")
    if device in (HUB_NAME, BROKER_NAME) or device.startswith(CLAIM_PREFIX):
        expected = f"not the hub's or the broker's, and not {CLAIM_PREFIX}…"
        raise ConfigError(f"device name {device!r}", expected=expected, action="Choose another name.")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def enrolled_devices(folder: Path) -> dict[str, str]:
    """Returns the group of each enrolled device; needs no key."""
    path = folder / "enrolled.json"
    return decode_json(path.read_bytes(), type=dict[str, str]) if path.exists() else {}


class EnrolledGroups:
    """The groups of enrolled devices, read again when the file has changed; from any thread.

    Args:
        folder: The authority's; without one no device is enrolled.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[int, int, int] | None = None
        self._groups: dict[str, str] = {}

    def group_of(self, device: str) -> str | None:
        """Returns the group that a device is enrolled for; ``None`` if it is not enrolled."""
        try:
            found = (self._folder / "enrolled.json").stat()
        except OSError:
            return None
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            self._groups, self._seen = enrolled_devices(self._folder), seen
        return self._groups.get(device)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # The clock of a board without battery may be hours late after a cold start.
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


def check_hosts(hosts: Sequence[str]) -> None:
    """Checks that a certificate can name the broker's hosts.

    Raises:
        ConfigError: There is none, or one is neither an address nor a host name.
    """
    if not hosts:
        raise ConfigError("the broker's certificate names no host", expected="at least one name or address")
    for host in hosts:
        if not _is_address(host) and not _HOST_NAME.fullmatch(host):
            action = "A name with other letters is written as its A-label, which begins with xn--."
            raise ConfigError("host", expected="an address or a name such as broker.plant", actual=host, action=action)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _alternative(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if _is_address(host) else x509.DNSName(host)
