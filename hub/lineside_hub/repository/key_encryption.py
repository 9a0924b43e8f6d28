"""Private keys as PKCS #8, encrypted with a slow key derivation.

`cryptography` writes PBKDF2 with 2,048 rounds: a millisecond a guess for the thief of a file. Here are as many rounds
as OWASP recommends, in the same format (PBES2, RFC 8018), which `cryptography` and OpenSSL read.
"""

from __future__ import annotations

import base64
import os
import textwrap

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

ROUNDS = 600_000
"""https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#pbkdf2"""

PASSPHRASE_ACTION = (
    "Give the passphrase that it was made with, by --ask-passphrase, --passphrase-file or LINESIDE_PASSPHRASE; "
    "nothing was signed."
)
"""What to do about a key that is not opened."""

_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d0209")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")
_NULL = bytes.fromhex("0500")
_INTEGER, _OCTETS, _SEQUENCE = 0x02, 0x04, 0x30


def key_pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, passphrase: bytes | None) -> bytes:
    """Returns a private key as PEM.

    Args:
        passphrase: Encrypts it; ``None`` for no encryption.
    """
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt, vector = os.urandom(16), os.urandom(16)
    derived = PBKDF2HMAC(hashes.SHA256(), length=32, salt=salt, iterations=ROUNDS).derive(passphrase)
    padder, encryptor = padding.PKCS7(128).padder(), Cipher(algorithms.AES(derived), modes.CBC(vector)).encryptor()
    content = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    rounds = _der(_INTEGER, ROUNDS.to_bytes(3, "big"))
    derivation = _der(_SEQUENCE, _der(_OCTETS, salt), rounds, _der(_SEQUENCE, _HMAC_SHA256, _NULL))
    scheme = _der(_SEQUENCE, _der(_SEQUENCE, _PBKDF2, derivation), _der(_SEQUENCE, _AES_256_CBC, _der(_OCTETS, vector)))
    whole = _der(_SEQUENCE, _der(_SEQUENCE, _PBES2, scheme), _der(_OCTETS, content))
    lines = textwrap.wrap(base64.b64encode(whole).decode(), 64)
    return "\n".join(
        ["-----BEGIN ENCRYPTED PRIVATE KEY-----", *lines, "-----END ENCRYPTED PRIVATE KEY-----\n"]
    ).encode()


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x80 | (size.bit_length() + 7) // 8]) + _shortest(size)
    return bytes([tag]) + length + content


def _shortest(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
