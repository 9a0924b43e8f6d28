"""Keys that two plants agree on, streams of masks from them, and encryption between two plants."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Vector = npt.NDArray[np.unsignedinteger[Any]]

WORDS: dict[int, type[np.unsignedinteger[Any]]] = {16: np.uint16, 32: np.uint32, 64: np.uint64}
"""Type of a vector's numbers by their bits."""

_NONCE = bytes(12)  # each key encrypts one message only


def agree(secret: bytes, public: bytes, purpose: str) -> bytes:
    """Returns 32 bytes that both owners of the keys compute, other ones for each purpose.

    Raises:
        ValueError: The public key is none.
    """
    shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(shared)


def public_of(secret: bytes) -> bytes:
    """Returns the public key of an X25519 secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def mask(seed: bytes, length: int, bits: int) -> Vector:
    """Returns a vector of ``length`` random numbers of ``bits`` bits that follow from ``seed``."""
    stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor().update(bytes(length * bits // 8))
    return read_words(stream, bits)


def read_words(data: bytes, bits: int) -> Vector:
    """Returns little-endian numbers of ``bits`` bits."""
    return np.frombuffer(data, f"<u{bits // 8}").astype(WORDS[bits])


def encrypt(key: bytes, text: bytes, context: bytes) -> bytes:
    """Encrypts one message; ``context`` is checked and not sent."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, text, context)


def decrypt(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """Decrypts what `encrypt` made.

    Raises:
        ValueError: It was changed, or is of another key or context.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, context)
    except InvalidTag as error:
        raise ValueError("a share was changed on its way") from error
