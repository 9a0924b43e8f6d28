"""Variational quantum circuit as matrix products in real arithmetic, in torch: trained, and exported to ONNX, as it is.

Each of the ``layers`` is: ``RY(angle)`` on every qubit, which brings in the input again (data re-uploading,
arXiv:1907.02085); a trained rotation ``Rot`` on every qubit; a ring of CNOTs. The outputs are the expectations of Z.

All gates without input are multiplied to one matrix a layer, so that an export holds constants in their place. Qubit 0
is the most significant bit of a basis state's number, as in PennyLane.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lineside_runtime.errors import ConfigError

QUBITS_MAX = 8
"""The matrix of a layer has 4 ** (qubits + 1) numbers: 1 MB for 8 qubits."""

LAYERS_MAX = 8


class VariationalCircuit(nn.Module):
    """Angles in, expectations of Z out, both one a qubit.

    Attributes:
        weights: ``(layers, qubits, 3) float32``: angles of ``Rot`` in radians.
        bond_dimension: Largest number of Schmidt coefficients between neighbouring qubits; ``None`` for no bound.
    """

    signs: Tensor

    def __init__(self, qubits: int, layers: int, *, bond_dimension: int | None = None) -> None:
        """Draws the weights.

        Args:
            qubits: 2 to 8.
            layers: 1 to 8.
            bond_dimension: ``None`` for a ring of CNOTs in every layer. A power of two, 2 ** k, for chains of CNOTs
                in the first k layers only: a CNOT doubles the Schmidt coefficients of a cut at most, so that 1 keeps
                the qubits apart.

        Raises:
            ConfigError: A value is out of range.
        """
        super().__init__()
        check_size(qubits, layers, bond_dimension)
        self.qubits, self.layers, self.bond_dimension = qubits, layers, bond_dimension
        self.weights = nn.Parameter(torch.empty(layers, qubits, 3).uniform_(-math.pi, math.pi))
        self.register_buffer("signs", torch.from_numpy(z_signs(qubits)), persistent=False)
        orders = [basis_order(qubits, pairs) for pairs in self.entanglers()]
        self._orders = torch.from_numpy(np.stack(orders))

    def entanglers(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Returns control and target of the CNOTs of each layer, in their order."""
        chain = tuple((qubit, qubit + 1) for qubit in range(self.qubits - 1))
        if self.bond_dimension is None:
            ring = (*chain, (self.qubits - 1, 0)) if self.qubits > 2 else chain
            return (ring,) * self.layers
        entangled = min(self.layers, self.bond_dimension.bit_length() - 1)
        return (chain,) * entangled + ((),) * (self.layers - entangled)

    def matrices(self) -> Tensor:
        """Returns the gates without input of each layer, ``(layers, 2 N, 2 N)`` for N basis states.

        They act on a state as a column: N real parts, then N imaginary parts.
        """
        gates = _rotations(self.weights)
        product = gates[:, 0]
        for qubit in range(1, self.qubits):
            product = _kronecker(product, gates[:, qubit], 2 ** (qubit + 1))
        layers = torch.arange(self.layers)[:, None]
        product = product[layers, self._orders]
        real, imaginary = product.real, product.imag
        return torch.cat([torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)], 1)

    def forward(self, angles: Tensor) -> Tensor:
        """Computes the expectations ``(B, qubits)`` of angles ``(B, qubits)`` in radians."""
        return measure(run_circuit(angles, self.matrices(), self.qubits), self.signs)

    def state(self, angles: Tensor) -> Tensor:
        """Computes the state ``(B, N) complex`` of angles ``(B, qubits)``."""
        real, imaginary = run_circuit(angles, self.matrices(), self.qubits).chunk(2, 1)
        return torch.complex(real, imaginary)


def check_size(qubits: int, layers: int, bond_dimension: int | None = None) -> None:
    """Checks the size of a circuit.

    Raises:
        ConfigError: A value is out of range.
    """
    if not 2 <= qubits <= QUBITS_MAX:
        raise ConfigError("qubits", expected=f"2 to {QUBITS_MAX}", actual=qubits)
    if not 1 <= layers <= LAYERS_MAX:
        raise ConfigError("layers", expected=f"1 to {LAYERS_MAX}", actual=layers)
    if bond_dimension is not None and (bond_dimension < 1 or bond_dimension & (bond_dimension - 1)):
        raise ConfigError("bond_dimension", expected="a power of two, or None", actual=bond_dimension)


def run_circuit(angles: Tensor, matrices: Tensor, qubits: int) -> Tensor:
    """Applies the layers to the state in which all qubits are 0.

    Args:
        angles: ``(B, qubits)`` of the rotations that every layer begins with.
        matrices: From `VariationalCircuit.matrices`.
        qubits: Their number; sizes of tensors would be computed in an exported graph.

    Returns:
        The state ``(B, 2 N)``: real parts, then imaginary parts.
    """
    half = qubits // 2
    rows, columns = 2**half, 2 ** (qubits - half)
    first, second = _embedding(angles[:, :half], half), _embedding(angles[:, half:], qubits - half)
    start = (first[:, 0, :, :1] * second[:, 0, :, :1].transpose(1, 2)).reshape(-1, rows * columns)
    state = start @ matrices[0, :, : rows * columns].T
    for layer in range(1, matrices.shape[0]):
        turned = first @ state.reshape(-1, 2, rows, columns) @ second.transpose(2, 3)
        state = turned.reshape(-1, 2 * rows * columns) @ matrices[layer].T
    return state


def measure(state: Tensor, signs: Tensor) -> Tensor:
    """Returns the expectation of Z of each qubit, ``(B, qubits)``, of a state of `run_circuit`.

    Args:
        state: ``(B, 2 N)``.
        signs: ``(N, qubits)`` of `z_signs`.
    """
    return (state * state) @ torch.cat([signs, signs])


def z_signs(qubits: int) -> npt.NDArray[np.float32]:
    """Returns ``(2 ** qubits, qubits)``: 1 where the qubit is 0 in a basis state, else -1."""
    numbers = np.arange(2**qubits)[:, None]
    bits = numbers >> np.arange(qubits)[::-1] & 1
    return (1 - 2 * bits).astype(np.float32)


def basis_order(qubits: int, pairs: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int64]:
    """Returns which basis state each basis state comes from, ``(2 ** qubits,)``, by CNOTs in their order."""
    numbers = np.arange(2**qubits)
    for control, target in reversed(pairs):  # a CNOT is its own inverse
        numbers = numbers ^ ((numbers >> (qubits - 1 - control) & 1) << (qubits - 1 - target))
    return numbers


def _rotations(angles: Tensor) -> Tensor:
    """Returns ``Rot(phi, theta, omega)`` for angles ``(…, 3)`` as ``(…, 2, 2)`` complex."""
    phi, theta, omega = angles.unbind(-1)
    cosine, sine = torch.cos(theta / 2), torch.sin(theta / 2)
    plus, minus = (phi + omega) / 2, (phi - omega) / 2
    rows = (
        torch.complex(cosine * torch.cos(plus), -cosine * torch.sin(plus)),
        torch.complex(-sine * torch.cos(minus), -sine * torch.sin(minus)),
        torch.complex(sine * torch.cos(minus), -sine * torch.sin(minus)),
        torch.complex(cosine * torch.cos(plus), cosine * torch.sin(plus)),
    )
    return torch.stack(rows, -1).reshape(*angles.shape[:-1], 2, 2)


def _embedding(angles: Tensor, qubits: int) -> Tensor:
    """Returns the product of ``RY`` on every qubit, ``(B, 1, n, n)``, for angles ``(B, qubits)``."""
    cosine, sine = torch.cos(angles / 2), torch.sin(angles / 2)
    gates = torch.stack([cosine, -sine, sine, cosine], -1).reshape(-1, qubits, 2, 2)
    product = gates[:, 0]
    for qubit in range(1, qubits):
        product = _kronecker(product, gates[:, qubit], 2 ** (qubit + 1))
    return product.unsqueeze(1)


def _kronecker(first: Tensor, second: Tensor, side: int) -> Tensor:
    """Returns the Kronecker products ``(B, side, side)`` of ``(B, side / 2, side / 2)`` and ``(B, 2, 2)``."""
    product = first[:, :, None, :, None] * second[:, None, :, None, :]
    return product.reshape(-1, side, side)
