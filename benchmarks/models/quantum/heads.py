"""Heads that are compared: quantum, its ablations, and classical ones; each with its space of settings.

The ablations are those of "Better than classical?" (Bowles, Ahmed, Schuld 2024, arXiv:2403.07059): the same circuit
without entanglement, which a classical machine computes qubit by qubit, and with a bounded one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn

from benchmarks.models.quantum.data import Floats, Ints
from benchmarks.smoke import scaled
from lineside_converters.training.quantum.fitting import FittingSettings, fit, predict, standardize
from lineside_converters.training.quantum.head import make_network
from lineside_models.quantum.network import DressedCircuit

QUBITS, LAYERS = 6, 3
EPOCHS = scaled((20, 40), smoke=(2,))
BATCH = 128

Settings = dict[str, Any]
Predict = Callable[[Floats], Ints]
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """A kind of head.

    Attributes:
        fit: Trains on features and labels of so many classes, with settings and a seed.
        parameters: Numbers that are trained, by features and classes; support vectors are not counted.
        classical: Whether it is no circuit.
    """

    draw: Callable[[Rng], Settings]
    fit: Callable[[Floats, Ints, int, Settings, int], Predict]
    parameters: Callable[[int, int], int]
    classical: bool


class Bottleneck(nn.Module):
    """Linear layer to as many values as there are qubits, tanh, and what follows it in place of a circuit."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        rest: tuple[nn.Module, ...] = (nn.Linear(QUBITS, classes),)
        if hidden:
            rest = (nn.Linear(QUBITS, hidden), nn.Tanh(), nn.Linear(hidden, classes))
        self.layers = nn.Sequential(nn.Linear(features, QUBITS), nn.Tanh(), *rest)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layers((features - self.get_buffer("mean")) / self.get_buffer("std"))
        return logits


def hidden_of(classes: int) -> int:
    """Returns the hidden units with which an MLP has as many parameters as the circuit, as nearly as it can be."""
    circuit = LAYERS * QUBITS * 3 + (QUBITS + 1) * classes
    return round((circuit - classes) / (QUBITS + 1 + classes))


def circuit_network(features: Floats, classes: int, seed: int, bond_dimension: int | None) -> DressedCircuit:
    """Returns an untrained head with a circuit."""
    return make_network(features, classes, QUBITS, LAYERS, seed=seed, bond_dimension=bond_dimension)


def fitted_circuit(
    features: Floats, labels: Ints, classes: int, settings: Settings, seed: int, bond_dimension: int | None = None
) -> DressedCircuit:
    """Returns a trained head with a circuit."""
    network = circuit_network(features, classes, seed, bond_dimension)
    fit(network, features, labels, FittingSettings(**settings), seed=seed)
    return network


def _circuit(bond_dimension: int | None) -> Head:
    def train(features: Floats, labels: Ints, classes: int, settings: Settings, seed: int) -> Predict:
        network = fitted_circuit(features, labels, classes, settings, seed, bond_dimension)
        return lambda rows: predict(network, rows)

    def parameters(features: int, classes: int) -> int:
        return _count(DressedCircuit(features, QUBITS, LAYERS, classes, bond_dimension=bond_dimension))

    return Head(_draw_network, train, parameters, classical=False)


def _bottleneck(hidden: Callable[[int], int]) -> Head:
    def train(features: Floats, labels: Ints, classes: int, settings: Settings, seed: int) -> Predict:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Bottleneck(features.shape[1], hidden(classes), classes)
        standardize(network, features)
        fit(network, features, labels, FittingSettings(**settings), seed=seed)
        return lambda rows: predict(network, rows)

    def parameters(features: int, classes: int) -> int:
        return _count(Bottleneck(features, hidden(classes), classes))

    return Head(_draw_network, train, parameters, classical=True)


def _count(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


def _draw_network(rng: Rng) -> Settings:
    return {
        "epochs": int(rng.choice(EPOCHS)),
        "batch": BATCH,
        "learning_rate": _between(rng, 3e-3, 6e-2),
        "weight_decay": _between(rng, 1e-3, 3),
    }


def _logistic(features: Floats, labels: Ints, classes: int, settings: Settings, seed: int) -> Predict:
    return _pipeline(LogisticRegression(C=settings["C"], max_iter=300), features, labels)


def _svm(features: Floats, labels: Ints, classes: int, settings: Settings, seed: int) -> Predict:
    return _pipeline(SVC(C=settings["C"], gamma=settings["gamma"] / features.shape[1]), features, labels)


def _pipeline(model: Any, features: Floats, labels: Ints) -> Predict:
    fitted = make_pipeline(StandardScaler(), model).fit(features, labels)
    return lambda rows: np.asarray(fitted.predict(rows), np.int64)


def _between(rng: Rng, low: float, high: float) -> float:
    """Draws a number, its logarithm uniformly."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


HEADS: dict[str, Head] = {
    "quantum": _circuit(None),
    "bond_dimension_2": _circuit(2),
    "separable": _circuit(1),
    "no_circuit": _bottleneck(lambda classes: 0),
    "mlp": _bottleneck(hidden_of),
    "logistic": Head(
        lambda rng: {"C": _between(rng, 1e-4, 1e1)},
        _logistic,
        lambda features, classes: (features + 1) * classes,
        classical=True,
    ),
    "rbf_svm": Head(
        lambda rng: {"C": _between(rng, 1e-1, 1e3), "gamma": _between(rng, 3e-2, 3)},
        _svm,
        lambda features, classes: 0,
        classical=True,
    ),
}
