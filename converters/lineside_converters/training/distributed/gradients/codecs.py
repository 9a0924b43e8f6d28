"""Encodings of values that travel between workers: plain numbers, and blocks of 8 or 4 bits with a scale each.

A codec writes rows of float32 to bytes and leaves in the rows what the bytes don't hold, so that whoever sends them
can add it next time (error feedback). All of it is done in pieces that stay in a core's cache: whole passes over a
network's gradients, with a new tensor for each, took eight times as long.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lineside_converters.training.distributed.exchange import Exchange

PIECE = 65536
"""Values that are worked on at once: 256 KiB of them, so that they and what is made of them stay in the cache."""

_SCALE = torch.bfloat16  # a scale in two bytes with float32's range: gradients are often too small for float16
_ROUND_UP = 1 + 2**-7  # a scale is never smaller than its block needs, however bfloat16 rounds it
_TINY = 1e-35  # below it the reciprocal of a scale has no float32


class Codec(abc.ABC):
    """One way to write values as bytes.

    Attributes:
        exact: Whether float32 values come back as they were.
    """

    exact: bool = False

    @abc.abstractmethod
    def row_length(self, values: int, world: int) -> int:
        """Returns the length of a worker's row where ``values`` are divided over ``world`` workers; with padding."""

    @abc.abstractmethod
    def bytes_of(self, values: int) -> float:
        """Returns how many bytes ``values`` take, without padding."""

    @abc.abstractmethod
    def pack(self, rows: Sequence[Tensor], length: int, *, but: int = -1) -> Tensor:
        """Encodes rows, and leaves the rounding errors in their place.

        Args:
            rows: R of ``(length,) float32`` or shorter, then as if zeros followed.
            length: As `row_length` returns.
            but: Number of a row that is left as it is; its bytes mean nothing.

        Returns:
            ``(R, bytes) uint8``.
        """

    @abc.abstractmethod
    def unpack(self, packed: Tensor, row: Tensor, length: int, *, add: bool = False) -> Tensor:
        """Writes, or adds, the values of one packed row to ``(n,) float32``, which may be shorter; returns it."""


class PlainCodec(Codec):
    """Values as float32 or bfloat16; nothing is left behind."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype, self.exact = dtype, dtype == torch.float32

    def row_length(self, values: int, world: int) -> int:
        """Returns the smallest one."""
        return -(-values // world)

    def bytes_of(self, values: int) -> float:
        """Returns two or four a value."""
        return float(values * self._dtype.itemsize)

    def pack(self, rows: Sequence[Tensor], length: int, *, but: int = -1) -> Tensor:
        """Converts; what bfloat16 doesn't hold is left in the rows, zeros under float32."""
        packed = torch.zeros((len(rows), length), dtype=self._dtype, device=rows[0].device)
        for number, (row, into) in enumerate(zip(rows, packed, strict=True)):
            if number != but:
                into[: row.numel()] = row
                row.sub_(into[: row.numel()])
        return packed.view(torch.uint8)

    def unpack(self, packed: Tensor, row: Tensor, length: int, *, add: bool = False) -> Tensor:
        """Converts back."""
        values = packed.view(self._dtype)[: row.numel()]
        return row.add_(values) if add else row.copy_(values)


class BlockCodec(Codec):
    """Integers of 8 or 4 bits in blocks that share a scale of two bytes.

    A value that is no number makes its block so.
    """

    def __init__(self, bits: int) -> None:
        """Takes the bits of a value: 8, in blocks of 8192; or 4, in blocks of 1024, because it has fewer steps."""
        self.bits = bits
        self._steps, self._block = {8: (127, 8192), 4: (7, 1024)}[bits]

    def block_of(self, length: int) -> int:
        """Returns the values that share a scale in a row of this length."""
        return length // max(1, -(-length // self._block))

    def row_length(self, values: int, world: int) -> int:
        """Returns a multiple of the smallest blocks that are as few as can be; even ones, two values a byte."""
        share = -(-values // world)
        blocks = -(-share // self._block)
        block = -(-share // max(1, blocks))
        return blocks * (block + block % 2)

    def bytes_of(self, values: int) -> float:
        """Returns the bits, and two bytes a block."""
        return values * (self.bits / 8 + _SCALE.itemsize / self._block)

    def _value_bytes(self, length: int) -> int:
        return length * self.bits // 8

    def pack(self, rows: Sequence[Tensor], length: int, *, but: int = -1) -> Tensor:
        """Rounds to the nearest step of each block."""
        size = self._value_bytes(length) + length // self.block_of(length) * _SCALE.itemsize
        packed = torch.empty((len(rows), size), dtype=torch.uint8, device=rows[0].device)
        for number, (row, into) in enumerate(zip(rows, packed, strict=True)):
            if number == but:
                continue
            if row.numel() == length:
                self._pack_row(row, into)
            else:
                padded = F.pad(row, (0, length - row.numel()))
                self._pack_row(padded, into)
                row.copy_(padded[: row.numel()])
        return packed

    def _pack_row(self, row: Tensor, packed: Tensor) -> None:
        block = self.block_of(row.numel())
        blocks, size = row.view(-1, block), self._value_bytes(row.numel())
        values = packed[:size].view(torch.int8).view(len(blocks), -1)
        scales, room = torch.empty(len(blocks), dtype=_SCALE, device=row.device), _room(blocks)
        for at in _pieces(len(blocks), block):
            part = blocks[at]
            largest = torch.maximum(part.amax(1), part.amin(1).neg_())
            scales[at] = torch.where(largest <= _TINY, 0, largest.mul_(_ROUND_UP / self._steps))
            steps = scales[at].float()[:, None]
            rounded = torch.mul(part, torch.where(steps > 0, 1 / steps, steps), out=room[: len(part)]).round_()
            self._write(rounded, values[at])
            part.addcmul_(rounded, steps, value=-1)
        packed[size:] = scales.view(torch.uint8)

    def _write(self, rounded: Tensor, values: Tensor) -> None:
        if self.bits == 8:
            values.copy_(rounded)
            return
        small, half = rounded.to(torch.int8), rounded.shape[1] // 2
        torch.add(small[:, :half], small[:, half:], alpha=16, out=values)  # from -119 to 119

    def _read(self, values: Tensor, room: Tensor) -> Tensor:
        into = room[: len(values)]
        if self.bits == 8:
            return into.copy_(values)
        half = into.shape[1] // 2
        high = (values + 8) >> 4
        into[:, half:] = high
        into[:, :half] = torch.sub(values, high, alpha=16)
        return into

    def _parts_of(self, packed: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Returns the values, ``(blocks, bytes) int8``, and their scales ``(blocks, 1) float32``."""
        blocks, size = length // self.block_of(length), self._value_bytes(length)
        values = packed[:size].view(torch.int8).view(blocks, -1)
        scales = packed[size:].clone().view(_SCALE)  # a copy: a view as two bytes needs an even offset
        return values, scales.float()[:, None]

    def unpack(self, packed: Tensor, row: Tensor, length: int, *, add: bool = False) -> Tensor:
        """Multiplies by the scales."""
        if row.numel() < length:
            padded = self.unpack(packed, torch.empty(length, device=row.device), length)[: row.numel()]
            return row.add_(padded) if add else row.copy_(padded)
        block = self.block_of(length)
        values, scales = self._parts_of(packed, length)
        blocks = row.view(-1, block)
        room = _room(blocks)
        for at in _pieces(len(blocks), block):
            read = self._read(values[at], room)
            if add:
                blocks[at].addcmul_(read, scales[at])
            else:
                torch.mul(read, scales[at], out=blocks[at])
        return row


def scatter_mean(codec: Codec, exchange: Exchange, flat: Tensor, length: int) -> Tensor:
    """Averages for those who own the values; see `scatter_rows`.

    Args:
        flat: ``(n,) float32``, n at most ``W * length``.
    """
    return scatter_rows(codec, exchange, rows_of(flat, exchange.world, length), length)


def scatter_rows(codec: Codec, exchange: Exchange, rows: Sequence[Tensor], length: int) -> Tensor:
    """Averages for those who own the rows: a reduce-scatter by an all-to-all of bytes.

    A worker's own row doesn't travel, and isn't rounded.

    Args:
        rows: Of each worker, ``(length,) float32`` or shorter. What the bytes don't hold is left in them, nothing of
            the own row.
        length: Of each worker's row, with padding.

    Returns:
        ``(length,) float32``: the mean over the workers of this worker's row, in the order of the workers.
    """
    rank = exchange.rank
    received = exchange.swap(codec.pack(rows, length, but=rank))
    found = torch.zeros(length, device=rows[rank].device)
    for number, packed in enumerate(received):
        if number == rank:
            found[: rows[rank].numel()].add_(rows[rank])
        else:
            codec.unpack(packed, found, length, add=True)
    rows[rank].zero_()
    return found.div_(exchange.world)


def gather_rows(
    codec: Codec, exchange: Exchange, own: Tensor, into: Tensor, length: int, *, add: bool = False
) -> Tensor:
    """Sends this worker's row to all, and writes, or adds, everybody's into ``(n,) float32``, which it returns.

    Args:
        own: ``(length,) float32`` or shorter; what the bytes don't hold is left in it.
        length: Of each worker's row, with padding.
    """
    packed = exchange.gather(codec.pack([own], length)[0])
    for each, row in zip(packed, rows_of(into, exchange.world, length), strict=True):
        codec.unpack(each, row, length, add=add)
    return into


def rows_of(flat: Tensor, world: int, length: int) -> list[Tensor]:
    """Returns the part of each worker, ``(length,)``; the last ones are shorter."""
    return [flat[rank * length : (rank + 1) * length] for rank in range(world)]


def _room(blocks: Tensor) -> Tensor:
    """Returns a buffer for one piece."""
    return torch.empty_like(blocks[: max(1, PIECE // blocks.shape[1])])


def _pieces(blocks: int, block: int) -> Iterator[slice]:
    """Yields which blocks are worked on at once."""
    size = max(1, PIECE // block)
    return (slice(first, first + size) for first in range(0, blocks, size))
