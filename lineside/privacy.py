"""``lineside.privacy``: inference in which the server cannot read what it computes with."""

from __future__ import annotations

from lineside_runtime.encrypted import EncryptedHead

__all__ = ["EncryptedHead"]
