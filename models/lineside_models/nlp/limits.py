"""What a document may cost."""

from __future__ import annotations

from typing import Annotated

import msgspec


class DocumentLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds for reading one document; beyond one of them `DocumentError` is raised.

    Attributes:
        bytes_max: Size of the file.
        unpacked_bytes_max: Size of the text parts of a DOCX, unpacked.
        pixels_max: Pixels of an image file.
        characters_max: Characters of the whole text.
        seconds: Time for all of it, text recognition included.
        memory_mb: Address space of the process that reads a PDF, in MiB.
    """

    bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 64 << 20
    unpacked_bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 16 << 20
    pages_max: Annotated[int, msgspec.Meta(ge=1)] = 200
    pixels_max: Annotated[int, msgspec.Meta(ge=1)] = 40_000_000
    characters_max: Annotated[int, msgspec.Meta(ge=1)] = 2_000_000
    seconds: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    memory_mb: Annotated[int, msgspec.Meta(ge=128)] = 1024
