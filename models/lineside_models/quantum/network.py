"""Dressed quantum circuit: a linear layer to angles, the circuit, a linear layer to logits (arXiv:1912.08278)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from lineside_models.quantum.circuit import VariationalCircuit, measure, run_circuit

HALF_TURN = math.pi / 2
"""Bound of an angle, of either sign."""


class DressedCircuit(nn.Module):
    """Features in, one logit a class out.

    Attributes:
        mean: ``(features,)`` that is subtracted from the features.
        std: ``(features,)`` that they are then divided by.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, features: int, qubits: int, layers: int, classes: int, *, bond_dimension: int | None = None
    ) -> None:
        """Draws the weights; ``qubits``, ``layers`` and ``bond_dimension`` as for `VariationalCircuit`.

        Raises:
            ConfigError: A value is out of range.
        """
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.projection = nn.Linear(features, qubits)
        self.circuit = VariationalCircuit(qubits, layers, bond_dimension=bond_dimension)
        self.output = nn.Linear(qubits, classes)

    def angles(self, features: Tensor) -> Tensor:
        """Computes the circuit's inputs ``(B, qubits)``, in radians, of features ``(B, features)``."""
        return HALF_TURN * torch.tanh(self.projection((features - self.mean) / self.std))

    def forward(self, features: Tensor) -> Tensor:
        """Computes the logits ``(B, classes)`` of features ``(B, features)``."""
        logits: Tensor = self.output(self.circuit(self.angles(features)))
        return logits


class InferenceGraph(nn.Module):
    """A trained `DressedCircuit` behind a trunk's feature maps, for export: gates and standardization are constants.

    The circuit computes in float64: in float32 its expectations are off by up to 1.2e-6.
    """

    projection: Tensor
    bias: Tensor
    matrices: Tensor
    signs: Tensor

    @torch.no_grad()
    def __init__(self, head: DressedCircuit) -> None:
        super().__init__()
        weight = head.projection.weight.double() / head.std.double()
        bias = head.projection.bias.double() - weight @ head.mean.double()
        self.register_buffer("projection", weight.float().T.contiguous())
        self.register_buffer("bias", bias.float())
        self.register_buffer("matrices", copy.deepcopy(head.circuit).double().matrices())
        self.register_buffer("signs", head.circuit.signs.double())
        self.qubits = head.circuit.qubits
        self.output = head.output

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes logits, expectations and angles of feature maps ``(B, C, H, W)``."""
        angles = HALF_TURN * torch.tanh(pool(*maps) @ self.projection + self.bias)
        expectations = measure(run_circuit(angles.double(), self.matrices, self.qubits), self.signs).float()
        return self.output(expectations), expectations, angles


def pool(*maps: Tensor) -> Tensor:
    """Returns mean and maximum of each channel of feature maps ``(B, C, H, W)`` as one vector ``(B, 2 Σ C)``."""
    return torch.cat([value for each in maps for value in (each.mean((2, 3)), each.amax((2, 3)))], 1)
