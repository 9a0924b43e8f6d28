"""The long-lived signing key of a plant."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lineside_runtime.errors import ConfigError, InputNotFoundError
from lineside_runtime.files import check_private, write_atomic

PlantKey = Ed25519PrivateKey
KEY_BYTES = 32


def make_key() -> PlantKey:
    """Returns a new key."""
    return Ed25519PrivateKey.generate()


def public_hex(key: PlantKey) -> str:
    """Returns the public part, as it stands in ``pool.toml``."""
    return key.public_key().public_bytes_raw().hex()


def write_key(key: PlantKey, path: Path) -> None:
    """Writes a key, readable by its owner only."""
    write_atomic(path, key.private_bytes_raw().hex().encode() + b"\n", mode=0o600)


def read_key(path: Path) -> PlantKey:
    """Reads what `write_key` wrote.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: It holds no key, or other users can read it.
    """
    if not path.is_file():
        raise InputNotFoundError(f"no key at {path}", action="Make one: lineside fleet pool key --out FILE")
    check_private(path)
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip()))
    except ValueError as error:
        action = "Restore it, or make another (lineside fleet pool key --out FILE) and name it in pool.toml."
        expected = f"{2 * KEY_BYTES} hexadecimal digits"
        raise ConfigError(f"{path} holds no key", expected=expected, action=action) from error


def is_signed(public: str, signature: bytes, content: bytes) -> bool:
    """Returns whether the owner of a public key signed ``content``."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True
