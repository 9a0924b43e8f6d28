"""Upload of kept frames, piece by piece."""

from __future__ import annotations

from typing import Literal

from lineside_link.messages.base import Message, Problem

FRAME_PIECE_BYTES = 16 * 1024
"""Size of a piece of a frame: at 2 Mbit/s a result waits 65 ms behind it."""

OFFER = -1
"""`FramePiece.offset` of a message that only asks whether, and from where, the hub wants the frame."""


class FramePiece(Message, frozen=True, kw_only=True):
    """Head of a piece of a kept frame; a newline and the bytes follow it.

    Each describes the whole frame, so that a restarted hub continues with any piece.

    Attributes:
        epoch: Of the device's database.
        seq: Of the record that the frame belongs to.
        sha256: Of the whole PNG file.
        size: Of the whole file, in bytes.
        offset: Where the bytes belong; `OFFER` without bytes.
    """

    epoch: str
    seq: int
    sha256: str
    size: int
    offset: int = OFFER


class FrameAnswer(Message, frozen=True, kw_only=True):
    """The hub's answer to a piece or an offer.

    Attributes:
        epoch: As in the piece.
        seq: As in the piece.
        sha256: As in the piece.
        status: ``send`` it; ``stored``: the device may forget it; ``wait`` and offer it again; ``refused`` for good.
        have: The hub has everything before this byte.
        again: The piece leaves a gap: continue at ``have``.
        bytes_s: How fast the device may send, in bytes a second; 0 leaves it to the device.
        wait_s: With ``wait``: how long.
        error: Why it must wait, or is refused.
    """

    epoch: str
    seq: int
    sha256: str
    status: Literal["send", "stored", "wait", "refused"]
    have: int = 0
    again: bool = False
    bytes_s: int = 0
    wait_s: float = 0.0
    error: Problem | None = None
