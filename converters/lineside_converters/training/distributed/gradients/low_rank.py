"""Gradients of weights as products of two thin matrices (Vogels et al., "PowerSGD", arXiv:1905.13727).

A step of power iteration from the last step's right factor: the left one is averaged and made orthonormal, then the
right one is averaged. What the product doesn't hold is added to the next step's gradients. Both factors travel in
bfloat16; vectors, and matrices too small to gain, travel as they are beside the left factor. torch has this as a hook
as well; it chains its collectives by callbacks (see `lineside_converters.training.distributed.exchange`).

Factors lie as their transposes, ``(RANK, n)``: products with so few columns then read a weight's gradients once, where
those with ``(n, RANK)`` took four times as long. What is kept back is summed, and lessened, in its own place.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients.codecs import BlockCodec
from lineside_converters.training.distributed.gradients.scheme import (
    GradientBucket,
    GradientScheme,
    Residuals,
    parts_of,
)

RANK = 4
GAIN = 2
"""A matrix is taken apart where its factors have at most one GAIN-th of its values."""


class LowRank(GradientScheme):
    """Two factors of ``RANK`` columns a weight."""

    name = "low-rank"
    codec = BlockCodec(4)

    def __init__(self, exchange: Exchange, *, warm_up_steps: int = 0) -> None:
        super().__init__(exchange, warm_up_steps=warm_up_steps)
        self._residuals = Residuals()
        self._right: dict[str, Tensor] = {}

    def average(self, bundled: GradientBucket) -> Tensor:
        """Returns the mean of the products, the same bits on every worker."""
        kept = parts_of(self._residuals.of(bundled), bundled.shapes)
        parts = parts_of(bundled.flat, bundled.shapes)
        thin = [n for n, shape in enumerate(bundled.shapes) if gains(shape)]
        rest = [n for n in range(len(parts)) if n not in set(thin)]
        wanted = [_matrix(kept[n], bundled.shapes[n]) for n in thin]
        lefts = self._mean_of(
            [
                self._start(bundled.names[n], each) @ each.add_(_matrix(parts[n], bundled.shapes[n])).T
                for n, each in zip(thin, wanted, strict=True)
            ]
        )
        lefts = [torch.linalg.qr(left.T)[0].T.contiguous() for left in lefts]
        rights = self._mean_of([left @ each for each, left in zip(wanted, lefts, strict=True)])
        self._average_vectors([parts[n] for n in rest])
        for n, each, left, right in zip(thin, wanted, lefts, rights, strict=True):
            found = torch.mm(left.T, right, out=_matrix(parts[n], bundled.shapes[n]))
            each.sub_(found)  # what the product doesn't hold
            self._right[bundled.names[n]] = right
        return bundled.flat

    def scatter(self, bundled: GradientBucket, length: int) -> Tensor:
        """Returns this worker's row of the mean, which all have."""
        row = self.average(bundled)[self.exchange.rank * length :][:length]
        return F.pad(row, (0, length - row.numel()))

    def _start(self, name: str, matrix: Tensor) -> Tensor:
        """Returns the last step's right factor; at first the same random one on every worker."""
        known = self._right.get(name)
        if known is not None and torch.isfinite(known).all() and known.any():
            return known
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return torch.randn((RANK, matrix.shape[1]), generator=generator).to(matrix.device)

    def _mean_of(self, factors: list[Tensor]) -> list[Tensor]:
        if not factors:
            return []
        flat = torch.cat([each.flatten() for each in factors]).div_(self.exchange.world)
        mean = self.exchange.sum(flat.to(torch.bfloat16)).float()
        return [
            part.view(each.shape)
            for part, each in zip(torch.split(mean, [f.numel() for f in factors]), factors, strict=True)
        ]

    def _average_vectors(self, vectors: list[Tensor]) -> None:
        if not vectors:
            return
        mean = self.exchange.sum(torch.cat(vectors)).div_(self.exchange.world)
        for vector, part in zip(vectors, torch.split(mean, [each.numel() for each in vectors]), strict=True):
            vector.copy_(part)

    @classmethod
    def bytes_of(cls, shapes: Sequence[torch.Size], world: int) -> float:
        """Returns two bytes a value of the factors, four of all else."""
        values = sum(2 * RANK * sum(sides(shape)) if gains(shape) else 4 * shape.numel() for shape in shapes)
        return 2 * (world - 1) / world * values

    def state(self) -> dict[str, Any]:
        """Returns this worker's residuals, and the right factors."""
        rights = {name: right.cpu().clone() for name, right in self._right.items()}
        return {"residuals": self._residuals.state(), "right": rights}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Takes both over."""
        self._residuals.restore(state["residuals"], device)
        self._right = {name: right.to(device) for name, right in state["right"].items()}


def sides(shape: torch.Size) -> tuple[int, int]:
    """Returns the rows and columns of a weight as a matrix: outputs by all else."""
    return shape[0], shape.numel() // max(1, shape[0])


def gains(shape: torch.Size) -> bool:
    """Returns whether a weight is factorized."""
    return len(shape) > 1 and GAIN * RANK * sum(sides(shape)) <= shape.numel()


def _matrix(flat: Tensor, shape: torch.Size) -> Tensor:
    """Returns a view of a weight's values in memory order: the columns' order may be that of channels last."""
    return flat.view(sides(shape))
