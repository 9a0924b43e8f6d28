"""`KeyRing`: the private keys that sign metadata, as PKCS8 files of mode 0600.

The keys of root, targets and the groups are encrypted if a passphrase is given; the folder can be carried
away. Those of snapshot and timestamp stay with the hub in the clear, because it renews by itself. No key and
no passphrase is ever part of a message, a log line or a repr.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public by its documentation

from lineside_runtime.errors import InputNotFoundError, SignatureError
from lineside_runtime.files import write_atomic


class KeyRing:
    """The keys in one folder, one file a role.

    Attributes:
        folder: Where they stand.
    """

    def __init__(self, folder: Path, *, passphrase: str | None = None) -> None:
        self.folder = folder
        self._passphrase = passphrase.encode() if passphrase else None

    def load(self, role: str) -> CryptoSigner:
        """Reads a role's key.

        Raises:
            InputNotFoundError: It is not in the folder.
            SignatureError: The passphrase is missing or wrong, or the file is not an Ed25519 key.
        """
        path = self._path(role)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise InputNotFoundError(
                f"no key of {role!r} at {path}", action="Bring the medium that holds the keys, and try again."
            ) from error
        return CryptoSigner(self._decrypt(role, data))

    def ensure(self, role: str) -> CryptoSigner:
        """Reads a role's key, and makes one if there is none yet.

        An existing key is never replaced: a run that was cut off may already have published it.

        Raises:
            SignatureError: There is one, and the passphrase does not open it.
        """
        if not self._path(role).exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            key = Ed25519PrivateKey.generate()
            data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, self._encryption())
            write_atomic(self._path(role), data, mode=0o600)
        return self.load(role)

    def _decrypt(self, role: str, data: bytes) -> Ed25519PrivateKey:
        encrypted = b"ENCRYPTED PRIVATE KEY" in data
        try:
            key = load_pem_private_key(data, self._passphrase if encrypted else None)
        except (ValueError, TypeError) as error:
            what = "needs a passphrase" if encrypted and self._passphrase is None else "cannot be opened"
            action = "Give the passphrase that it was made with; nothing was signed."
            raise SignatureError(f"the key of {role!r} {what}", action=action) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SignatureError(f"the key of {role!r}", expected="Ed25519", actual=type(key).__name__)
        return key

    def _encryption(self) -> KeySerializationEncryption:
        return NoEncryption() if self._passphrase is None else BestAvailableEncryption(self._passphrase)

    def _path(self, role: str) -> Path:
        return self.folder / f"{role}.pem"
