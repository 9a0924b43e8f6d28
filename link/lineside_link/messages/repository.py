"""Requests of devices to the repository, and its answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from lineside_link.messages.base import Message
from lineside_runtime.bundle import CHUNK_BYTES

FEATURES = ("batches", "deltas", "multicast", "pieces")
"""What a hub says that it knows, so that a newer device doesn't ask an older hub in vain."""


class RepoRequest(Message, frozen=True, kw_only=True):
    """Asks the repository for one piece.

    Attributes:
        id: Chosen by the device; comes back in the answer.
        kind: ``metadata`` and ``target`` are TUF's files, by their consistent-snapshot names; ``chunk`` is one chunk;
            ``deltas`` is the `Deltas` from one bundle to another; ``multicast`` asks to send a target to all at once.
        path: Name of the file, hexadecimal sha256 of the chunk or of the wanted bundle's manifest, or the target.
        part: Number of the piece.
        piece: Size of a piece in bytes; smaller ones of a chunk for a link that breaks often.
        base: Of ``deltas`` and ``multicast``: sha256 of the manifest of the bundle that is there; empty for none.
        damaged: Of ``chunk``: it came with another hash, so the hub looks whether its own copy is whole.
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
        status: 200, 202 (is being made: ask again), 404 (not there) or 503 (busy: ask again later).
        part: Number of this piece.
        parts: How many pieces the file has.
        size: Of the whole file, in bytes.
        knows: Of ``metadata``: what this hub can do beyond the first release (`FEATURES`).
        multicast_bytes_s: Of ``metadata``: how fast it sends to all at once.
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
    """Makes one file of a bundle out of one that is there. It is not signed: the file's own hash is what counts.

    Attributes:
        file: sha256 of the file that it makes.
        base: sha256 of the file that it starts from; empty for a file that is compressed as a whole.
        format: ``zstd`` (as of ``zstd --patch-from``) or ``bsdiff4``.
        size: Of the patch, in bytes.
        sha256: Of the patch.
        chunks: sha256 of each of its chunks, which are asked for like any other.
    """

    file: str
    base: str
    format: PatchFormat
    size: int
    sha256: str
    chunks: tuple[str, ...]


class Deltas(Message, frozen=True, kw_only=True):
    """How to come from one bundle to another.

    Attributes:
        patches: For each file for which one is smaller than the file.
    """

    patches: tuple[Patch, ...] = ()


class Multicast(Message, frozen=True, kw_only=True):
    """What the hub is about to send to all that subscribe to a target's chunks.

    Attributes:
        id: Of this sending; its end says the same.
        chunks: How many.
        bytes_s: How fast, in bytes a second.
    """

    id: str
    chunks: int
    bytes_s: int
