"""Every certificate and token that the authority has issued, and its state.

One file, ``registry.json``, replaced as a whole under the folder's lock. It holds the certificate of a token but not
its private key.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Literal

import msgspec

from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import DatabaseError
from lineside_runtime.files import write_atomic

NAME = "registry.json"

CertificateKind = Literal["device", "claim", "hub", "broker"]


class IssuedCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate.

    Attributes:
        serial: Hexadecimal.
        kind: Whose it is; a ``claim`` is the certificate of a token.
        certificate: In PEM.
    """

    serial: str
    name: str
    kind: CertificateKind
    ends: datetime.datetime
    certificate: str
    revoked: datetime.datetime | None = None


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A token: the right of one device to ask once for its first certificate.

    Attributes:
        issued: Serial of the certificate that it was used for; empty until then.
    """

    id: str
    device: str
    group: str
    ends: datetime.datetime
    serial: str
    issued: str = ""


class Registry(msgspec.Struct, kw_only=True):
    """Everything that was issued.

    Attributes:
        certificates: By serial.
        claims: By id.
    """

    certificates: dict[str, IssuedCertificate] = {}
    claims: dict[str, Claim] = {}

    @classmethod
    def read(cls, folder: Path) -> Registry:
        """Reads it; an empty one if there is none yet."""
        path = folder / NAME
        try:
            return decode_json(path.read_bytes(), type=Registry)
        except FileNotFoundError:
            return cls()
        except msgspec.DecodeError as error:
            action = "Restore the hub from a backup: without it the revoked certificates are unknown."
            raise DatabaseError(f"{path} is damaged: {error}", action=action) from error

    def write(self, folder: Path) -> None:
        """Replaces the file."""
        write_atomic(folder / NAME, msgspec.json.format(msgspec.json.encode(self), indent=1), mode=0o600)

    def of(self, name: str) -> list[IssuedCertificate]:
        """Returns the certificates of a name that are not revoked, the last to expire first."""
        own = [issued for issued in self.certificates.values() if issued.name == name and issued.revoked is None]
        return sorted(own, key=lambda issued: issued.ends, reverse=True)
