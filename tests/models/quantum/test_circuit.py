"""The circuit beside PennyLane: values, gradients, shots and noise; and its bound on entanglement."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lineside_models.quantum.circuit import VariationalCircuit
from lineside_runtime.errors import ConfigError

pytestmark = pytest.mark.torch

BATCH = 5


def qnode_of(circuit: VariationalCircuit, **how: Any) -> Any:
    from lineside_models.quantum.pennylane_circuit import qnode_of as made  # not in processes that only collect: 3 s

    return made(circuit, **how)


def circuit_of(qubits: int = 4, layers: int = 3, bond_dimension: int | None = None) -> VariationalCircuit:
    torch.manual_seed(qubits + layers)
    return VariationalCircuit(qubits, layers, bond_dimension=bond_dimension).double()


def angles_of(circuit: VariationalCircuit, batch: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(batch, circuit.qubits, generator=generator, dtype=torch.float64) - 0.5) * math.pi


@pytest.mark.parametrize(
    ("qubits", "layers", "bond_dimension"), [(2, 1, None), (5, 2, None), (6, 3, None), (6, 3, 2), (4, 2, 1)]
)
def test_expectations_are_pennylanes(qubits: int, layers: int, bond_dimension: int | None) -> None:
    circuit = circuit_of(qubits, layers, bond_dimension)
    angles = angles_of(circuit)
    with torch.no_grad():
        wanted = torch.stack(qnode_of(circuit)(angles, circuit.weights), 1)
        assert torch.allclose(circuit(angles), wanted, atol=1e-12)
        assert torch.allclose(circuit.float()(angles.float()), wanted.float(), atol=1e-6)


@pytest.mark.parametrize("way", ["backprop", "parameter-shift"])
def test_gradients_are_pennylanes(way: str) -> None:
    circuit = circuit_of()
    angles = angles_of(circuit, 1).requires_grad_()
    own = torch.autograd.grad(circuit(angles)[0, 1], (angles, circuit.weights))
    wanted = torch.autograd.grad(
        qnode_of(circuit, gradient=way)(angles[0], circuit.weights)[1], (angles, circuit.weights)
    )
    for one, other in zip(own, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-10)
        assert one.abs().max() > 1e-3


@pytest.mark.parametrize(("bond_dimension", "ranks"), [(1, 1), (2, 2), (4, 4), (None, 8)])
def test_a_bond_dimension_bounds_the_schmidt_coefficients(bond_dimension: int | None, ranks: int) -> None:
    circuit = circuit_of(6, 3, bond_dimension)
    with torch.no_grad():
        state = circuit.state(angles_of(circuit))
    found = [int((torch.linalg.svdvals(state.reshape(BATCH, 2**cut, -1)) > 1e-9).sum(1).max()) for cut in range(1, 6)]
    assert max(found) == ranks


def test_shots_scatter_and_noise_shrinks_what_is_measured() -> None:
    circuit = circuit_of(2, 1)
    angles = angles_of(circuit)
    with torch.no_grad():
        exact, shot, noisy, random = (
            np.stack(qnode_of(circuit, **how)(angles, circuit.weights), 1)
            for how in ({}, {"shots": 400}, {"depolarizing": 0.05}, {"depolarizing": 0.75})
        )
    assert 0 < np.abs(shot - exact).max() < 6 / math.sqrt(400)
    assert (np.abs(noisy) < np.abs(exact)).all()
    assert np.abs(random).max() < 1e-9


def test_what_is_out_of_range_is_refused() -> None:
    circuit = circuit_of(2, 1)
    for build in (
        lambda: VariationalCircuit(9, 3),
        lambda: VariationalCircuit(6, 0),
        lambda: VariationalCircuit(6, 3, bond_dimension=3),
        lambda: qnode_of(circuit, depolarizing=0.8),
        lambda: qnode_of(circuit, shots=0),
        lambda: qnode_of(circuit, device="no.such.device"),
    ):
        with pytest.raises(ConfigError):
            build()
