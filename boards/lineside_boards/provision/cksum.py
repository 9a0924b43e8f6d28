"""The CRC of POSIX' cksum(1), which every board has: CRC-32 with 0x04C11DB7 from the top bit down, the length behind.

https://pubs.opengroup.org/onlinepubs/9799919799/utilities/cksum.html. zlib's runs from the bottom bit up, and
binascii has 16 bits only.
"""

from __future__ import annotations

_POLYNOMIAL = 0x04C11DB7


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (_POLYNOMIAL if crc & 0x80000000 else 0)
        table.append(crc & 0xFFFFFFFF)
    return tuple(table)


_TABLE = _table()


def cksum(data: bytes) -> tuple[int, int]:
    """Returns the CRC and the number of bytes, as ``cksum`` prints them."""
    length, tail = len(data), bytearray()
    while length:
        tail.append(length & 0xFF)
        length >>= 8
    crc = 0
    for byte in (*data, *tail):
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _TABLE[(crc >> 24) ^ byte]
    return ~crc & 0xFFFFFFFF, len(data)
