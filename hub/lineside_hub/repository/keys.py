"""Private keys that sign metadata: PKCS8 files of mode 0600.

A role's first key is ``<role>.pem``; those that are added or take its place are ``<role>~<key id's first digits>.pem``,
so that the old and the new key of a rotation exist side by side. The metadata, not the names, says which of them is
trusted.

The keys of root, targets and the groups are encrypted if a passphrase is given, and their folder can be kept offline.
Those of snapshot and timestamp are not encrypted, because the hub renews by itself. Keys and passphrases never appear
in messages, log lines or reprs.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key  # type: ignore[attr-defined]  # public by its documentation

from lineside_hub.repository.key_encryption import PASSPHRASE_ACTION, key_pem
from lineside_runtime.errors import InputError, InputNotFoundError, SignatureError
from lineside_runtime.files import fsync_folder, write_atomic


class KeyRing:
    """The keys in one folder."""

    def __init__(self, folder: Path, *, passphrase: str | None = None) -> None:
        self.folder = folder
        self._passphrase = passphrase.encode() if passphrase else None

    def holds(self, role: str) -> bool:
        """Whether the folder has a key of the role."""
        return bool(self.paths(role))

    def paths(self, role: str) -> list[Path]:
        """Returns the files of a role's keys, the first key first."""
        first = self.folder / f"{role}.pem"
        # No role's name holds a tilde, so "a~….pem" can't be of a role "a~…".
        return [path for path in (first, *sorted(self.folder.glob(f"{role}~*.pem"))) if path.exists()]

    def load(self, role: str) -> CryptoSigner:
        """Reads a role's first key; as `load_all`."""
        return self.load_all(role)[0]

    def load_all(self, role: str) -> list[CryptoSigner]:
        """Reads all of a role's keys.

        Raises:
            InputNotFoundError: There is none in the folder.
            SignatureError: The passphrase is missing or wrong, or a file is not an Ed25519 key.
        """
        paths = self.paths(role)
        if not paths:
            raise InputNotFoundError(
                f"no key of {role!r} at {self.folder / role}.pem",
                action="Bring the medium that holds the keys, and try again.",
            )
        return [CryptoSigner(self._decrypt(role, path.read_bytes())) for path in paths]

    def ensure(self, role: str) -> CryptoSigner:
        """Reads a role's key; makes one if there is none.

        An existing key is never replaced: an interrupted run may already have published it.

        Raises:
            SignatureError: There is one, and the passphrase does not open it.
        """
        if not self.holds(role):
            self._write(self.folder / f"{role}.pem", Ed25519PrivateKey.generate())
        return self.load(role)

    def make(self, role: str) -> CryptoSigner:
        """Makes one more key for a role."""
        key = Ed25519PrivateKey.generate()
        signer = CryptoSigner(key)
        self._write(self.folder / f"{role}~{signer.public_key.keyid[:12]}.pem", key)
        return signer

    def discard(self, role: str, keyids: Collection[str]) -> None:
        """Deletes keys that are no longer trusted; keys that cannot be opened are kept."""
        for path in self.paths(role):
            try:
                keyid = CryptoSigner(self._decrypt(role, path.read_bytes())).public_key.keyid
            except SignatureError:
                continue
            if keyid in keyids:
                path.unlink()
                fsync_folder(self.folder)

    def _write(self, path: Path, key: Ed25519PrivateKey) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, key_pem(key, self._passphrase), mode=0o600)

    def _decrypt(self, role: str, data: bytes) -> Ed25519PrivateKey:
        return _decrypt(repr(role), data, self._passphrase)


def new_key_file(path: Path, *, passphrase: str | None = None) -> Key:
    """Makes a key pair of a person, outside the hub's folder; an existing file is never replaced.

    Args:
        path: Where the private key goes, mode 0600.
        passphrase: Encrypts it, if given.

    Returns:
        The public key.

    Raises:
        InputError: The file is there already.
    """
    if path.exists():
        raise InputError(f"{path} is there already", action="Choose another name; keys are not replaced.")
    key = Ed25519PrivateKey.generate()
    write_atomic(path, key_pem(key, passphrase.encode() if passphrase else None), mode=0o600)
    public: Key = CryptoSigner(key).public_key
    return public


def read_key_file(path: Path, *, passphrase: str | None = None) -> CryptoSigner:
    """Reads what `new_key_file` made.

    Raises:
        InputNotFoundError: It is not there.
        SignatureError: The passphrase is missing or wrong, or it is not an Ed25519 key.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}", action="Give the file of your private key.") from error
    return CryptoSigner(_decrypt(str(path), data, passphrase.encode() if passphrase else None))


def _decrypt(whose: str, data: bytes, passphrase: bytes | None) -> Ed25519PrivateKey:
    encrypted = b"ENCRYPTED PRIVATE KEY" in data
    try:
        key = load_pem_private_key(data, passphrase if encrypted else None)
    except (ValueError, TypeError) as error:
        what = "needs a passphrase" if encrypted and passphrase is None else "cannot be opened"
        raise SignatureError(f"the key of {whose} {what}", action=PASSPHRASE_ACTION) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"the key of {whose}", expected="Ed25519", actual=type(key).__name__)
    return key
