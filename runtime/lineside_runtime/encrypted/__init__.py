"""Encrypted inference: the device computes and encrypts features, and a server applies its head without reading them.

The head is the last linear layer of an INT8 classifier. Its sums are whole numbers below a known bound, so that BFV,
which computes exactly with whole numbers, gives the sums of the INT8 engine bit for bit.

::

    device: image ─ trunk (Session) ─ INT8 features ─ encrypt ─► server: weights ─► device: decrypt ─ logits

Who may be dishonest, and what each side learns: docs/privacy.md.
"""

from __future__ import annotations

from lineside_runtime.encrypted.client import EncryptedHead, HeadTransport, HttpTransport
from lineside_runtime.encrypted.head import HeadDescription, LinearHead, read_head, write_head

__all__ = [
    "EncryptedHead",
    "HeadDescription",
    "HeadTransport",
    "HttpTransport",
    "LinearHead",
    "read_head",
    "write_head",
]
