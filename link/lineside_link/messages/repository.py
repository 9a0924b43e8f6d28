"""Requests of devices to the repository, and its answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from lineside_link.messages.base import Message
from lineside_runtime.bundle import CHUNK_BYTES

FEATURES = ("batches", "deltas", "multicast", "pieces")
"""Features of this hub, so that a newer device does not request what an older hub does not know."""


class RepoRequest(Message, frozen=True, kw_only=True):
    """Requests one piece from the repository.

    Attributes:
        id: Chosen by the device; repeated in the answer.
        kind: ``metadata`` and ``target`` are TUF's files, by their consistent-snapshot names; ``chunk`` is one chunk;
            ``deltas`` is the `Deltas` from one bundle to another; ``multicast`` asks the hub to multicast a bundle.
        path: Name of the file, hexadecimal sha256 of the chunk or of the wanted bundle's manifest.
        part: Number of the piece.
        piece: Size of a piece in bytes; smaller ones of a chunk for a link that breaks often.
        base: Of ``deltas`` and ``multicast``: sha256 of the installed bundle's manifest; empty for none.
        damaged: Of ``chunk``: it arrived with another hash, so the hub checks its own copy.
    """

    id: str
    kind: Literal["metadata", "target", "chunk", "deltas", "multicast"]
    path: str
    part: int = 0
    piece: int = CHUNK_BYTES
    base: str = ""
    damaged: bool = False


class RepoResponse(Message, frozen=True, kw_only=True):
    """Head of an answer; a newline and the bytes follow it.

    Attributes:
        id: Of the request.
        status: 200, 202 (in preparation: ask again), 404 (not found) or 503 (busy: ask again later).
        part: Number of this piece.
        parts: How many pieces the file has.
        size: Of the whole file, in bytes.
        knows: Of ``metadata``: features of this hub (`FEATURES`).
        multicast_bytes_s: Of ``metadata``: the rate of multicasts, in bytes a second.
    """

    id: str
    status: int
    part: int = 0
    parts: int = 1
    size: int = 0
    knows: tuple[str, ...] = ()
    multicast_bytes_s: int = 0


PatchFormat = Literal["zstd", "bsdiff4"]


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """Makes one file of a bundle from an installed one. Not signed: the hash of the outcome is checked.

    Attributes:
        file: sha256 of the file that it makes.
        base: sha256 of the file that it starts from; empty for a file that is compressed as a whole.
        format: ``zstd`` (as of ``zstd --patch-from``) or ``bsdiff4``.
        size: Of the patch, in bytes.
        sha256: Of the patch.
        chunks: sha256 of each of its chunks, which are requested like any other.
    """

    file: str
    base: str
    format: PatchFormat
    size: int
    sha256: str
    chunks: tuple[str, ...]


class Deltas(Message, frozen=True, kw_only=True):
    """Patches from one bundle to another.

    Attributes:
        patches: One for each file that a patch makes smaller to transfer.
    """

    patches: tuple[Patch, ...] = ()


class Multicast(Message, frozen=True, kw_only=True):
    """Announces that the hub sends the chunks of a target to all subscribers.

    Attributes:
        id: Of this multicast; its end message repeats it.
        chunks: Number of chunks.
        bytes_s: Rate in bytes a second.
    """

    id: str
    chunks: int
    bytes_s: int
