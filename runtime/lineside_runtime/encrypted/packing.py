"""Arrange features and weights in the slots of ciphertexts, so that few rotations multiply a vector by a matrix.

The diagonal method of Halevi and Shoup (CRYPTO 2014) for a wide matrix, as GAZELLE (USENIX Security 2018) has it: the
features are repeated with a period, diagonal ``i`` of the matrix is multiplied by the features rotated by ``i``, and
the sums are folded. Baby steps and giant steps: of ``rows`` rotations about twice the square root are computed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from lineside_runtime.encrypted.head import FEATURES_MAX

Ints = npt.NDArray[np.int64]

ROW_SLOTS = FEATURES_MAX
"""Slots that rotate together; a BFV ciphertext has two such rows, of which the second one stays empty."""


@dataclasses.dataclass(frozen=True, slots=True)
class Packing:
    """The arrangement for one shape of head.

    Attributes:
        features: Columns of the matrix.
        classes: Rows of the matrix.
    """

    features: int
    classes: int

    @property
    def rows(self) -> int:
        """Classes, filled up to a power of two."""
        return 1 << (self.classes - 1).bit_length()

    @property
    def period(self) -> int:
        """Slots after which the features repeat: a power of two."""
        return max(1 << (self.features - 1).bit_length(), self.rows)

    @property
    def baby_steps(self) -> int:
        """Rotations of the features, that by 0 counted."""
        return 1 << ((self.rows.bit_length()) // 2)

    @property
    def giant_steps(self) -> int:
        """Rotations of partial sums, that by 0 counted."""
        return self.rows // self.baby_steps

    @property
    def folds(self) -> tuple[int, ...]:
        """Rotations that add up the partial sums of a class, largest first."""
        return tuple(self.rows << step for step in reversed(range((self.period // self.rows).bit_length() - 1)))

    @property
    def rotations(self) -> tuple[int, ...]:
        """All rotations, for which the server needs keys."""
        baby = range(1, self.baby_steps)
        giant = range(self.baby_steps, self.rows, self.baby_steps)
        return tuple(sorted({*baby, *giant, *self.folds}))

    def slots(self, values: Ints) -> Ints:
        """Repeats ``values`` of at most one period over the first row: ``(2 * ROW_SLOTS,) int64``."""
        period = np.zeros(self.period, np.int64)
        period[: len(values)] = values
        return np.concatenate([np.tile(period, ROW_SLOTS // self.period), np.zeros(ROW_SLOTS, np.int64)])

    def diagonals(self, weights: Ints) -> list[list[Ints]]:
        """Returns the slots of each diagonal, by giant step and baby step, rotated back by the giant step.

        Args:
            weights: ``(classes, features)``.
        """
        matrix = np.zeros((self.rows, self.period), np.int64)
        matrix[: self.classes, : self.features] = weights
        column = np.arange(self.period)
        return [
            [
                self.slots(np.roll(matrix[column % self.rows, (column + giant + baby) % self.period], giant))
                for baby in range(self.baby_steps)
            ]
            for giant in range(0, self.rows, self.baby_steps)
        ]
