"""Patches between two versions of a file: made at the hub, applied on the device.

| format | made by | good for |
| --- | --- | --- |
| ``zstd`` with a base | zstd with the old file as a prefix, as ``zstd --patch-from`` does | files with moved content |
| ``bsdiff4`` | bsdiff: sums of bytes, compressed by bzip2 | weights that all changed a little |
| ``zstd`` without a base | zstd, level 19 | a file without a similar one |

Invariants:

- A patch is not signed and not trusted: the signed manifest bounds the size of the outcome, no part of the patch is
  unpacked beyond that, and the hash of the outcome is checked.
- Other programs can apply both formats: ``zstd -d --patch-from`` and ``bspatch``.
- `fits` bounds the memory for a patch before anything is read.
"""

from __future__ import annotations

import bz2
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lineside_link.messages import Patch, PatchFormat
from lineside_runtime.errors import DeltaError

if TYPE_CHECKING:
    from backports import zstd
elif sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD_MAX_BYTES = 64 << 20
"""Largest file, old or new, of a zstd patch; level 19 takes a minute for it."""

BSDIFF_MAX_BYTES = 16 << 20
"""Largest file, old or new, of a bsdiff patch: the suffix array needs 17 bytes a byte of the old file."""

FILE_MIN_BYTES = 4096
"""Smaller files are fetched whole: requesting a patch would cost as much."""

LEVEL = 19

_BLOCK = 1 << 20
_HEADER = struct.Struct("<8s8s8s8s")
_MAGIC = b"BSDIFF40"
_TRIPLE_BYTES = 24
_PREFIX_MIN_BYTES = 8
"""zstd accepts no shorter prefix."""


def fits(patch: Patch, new_bytes: int, base_bytes: int) -> bool:
    """Whether a patch is within the bounds of this release and smaller than the file.

    Args:
        new_bytes: Size of the new file, from the signed manifest.
    """
    limit = BSDIFF_MAX_BYTES if patch.format == "bsdiff4" else ZSTD_MAX_BYTES
    return 0 < patch.size < new_bytes <= limit and base_bytes <= limit


def make(format: PatchFormat, old: bytes, new: bytes) -> bytes:
    """Returns a patch from ``old`` to ``new``.

    Args:
        old: What the device has; empty for none.
    """
    if format == "bsdiff4":
        import bsdiff4

        patch: bytes = bsdiff4.diff(old, new)
        return patch
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.compression_level: LEVEL, parameter.content_size_flag: 1}
    if len(old) < _PREFIX_MIN_BYTES:
        return _compress(zstd.ZstdCompressor(options=options), new)
    # The window must cover the old and the new file.
    options[parameter.window_log] = max(20, (len(old) + len(new)).bit_length())
    options[parameter.enable_long_distance_matching] = 1
    prefix = zstd.ZstdDict(old, is_raw=True).as_prefix
    return _compress(zstd.ZstdCompressor(options=options, zstd_dict=prefix), new)


def _compress(compressor: zstd.ZstdCompressor, data: bytes) -> bytes:
    made: bytes = compressor.compress(data, compressor.FLUSH_FRAME)
    return made


def apply(format: PatchFormat, base: Path | None, patch: bytes, size: int) -> Iterator[bytes]:
    """Yields the content that a patch makes, never more than ``size`` bytes.

    Args:
        base: The old file; ``None`` for none.

    Raises:
        DeltaError: It is damaged, or its content has another size.
    """
    old = base.read_bytes() if base is not None else b""
    blocks = _unzstd(old, patch, size) if format == "zstd" else _unbsdiff(old, patch, size)
    made = 0
    for block in blocks:
        made += len(block)
        if made > size:
            raise DeltaError("the patch makes too much", expected=f"{size} bytes", actual=f"{made} bytes and more")
        yield block
    if made != size:
        raise DeltaError("the patch makes too little", expected=f"{size} bytes", actual=f"{made} bytes")


def _unzstd(old: bytes, patch: bytes, size: int) -> Iterator[bytes]:
    window = max(20, (len(old) + size).bit_length())
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: window}
    prefix = zstd.ZstdDict(old, is_raw=True).as_prefix if len(old) >= _PREFIX_MIN_BYTES else None
    decompressor = zstd.ZstdDecompressor(zstd_dict=prefix, options=options)
    try:
        block = decompressor.decompress(patch, _BLOCK)
        while block or not (decompressor.eof or decompressor.needs_input):
            yield block
            block = decompressor.decompress(b"", _BLOCK) if not decompressor.eof else b""
    except zstd.ZstdError as error:
        raise DeltaError(f"the patch cannot be read: {error}") from error


def _unbsdiff(old: bytes, patch: bytes, size: int) -> Iterator[bytes]:
    """Unpacks the three parts within their bounds and applies them by bsdiff4."""
    from bsdiff4 import core

    if len(patch) < _HEADER.size or patch[: len(_MAGIC)] != _MAGIC:
        raise DeltaError("the patch cannot be read: it is not BSDIFF40")
    control_bytes, diff_bytes, made = (core.decode_int64(field) for field in _HEADER.unpack_from(patch)[1:])
    if made != size:
        raise DeltaError("the patch makes another file", expected=f"{size} bytes", actual=f"{made} bytes")
    start = _HEADER.size
    if min(control_bytes, diff_bytes) < 0 or start + control_bytes + diff_bytes > len(patch):
        raise DeltaError("the patch cannot be read: its parts are larger than it is")
    rest = memoryview(patch)[start:]
    # A useful control triple covers at least a byte.
    control = _unbzip(rest[:control_bytes], _TRIPLE_BYTES * (size + 1))
    diff = _unbzip(rest[control_bytes : control_bytes + diff_bytes], size)
    extra = _unbzip(rest[control_bytes + diff_bytes :], size)
    if len(control) % _TRIPLE_BYTES or len(diff) + len(extra) != size:
        raise DeltaError("the patch cannot be read: its parts do not fit together")
    try:
        yield core.patch(old, size, control, diff, extra)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise DeltaError(f"the patch cannot be applied: {error}") from error


def _unbzip(data: memoryview, limit: int) -> bytes:
    decompressor = bz2.BZ2Decompressor()
    try:
        made = decompressor.decompress(data, limit + 1)
    except (OSError, ValueError, EOFError) as error:
        raise DeltaError(f"the patch cannot be read: {error}") from error
    if len(made) > limit or not decompressor.eof:
        raise DeltaError("a part of the patch is too long or cut off", expected=f"at most {limit} bytes")
    return made
