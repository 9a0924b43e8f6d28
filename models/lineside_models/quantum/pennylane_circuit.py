"""The circuit of `VariationalCircuit` in PennyLane: with shots, with noise, on other simulators and on hardware.

The only file that imports PennyLane. Its device plug-ins: https://pennylane.ai/plugins
"""

from __future__ import annotations

from typing import Any

import pennylane as qml

from lineside_models.quantum.circuit import VariationalCircuit
from lineside_runtime.errors import ConfigError

EXACT, MIXED = "default.qubit", "default.mixed"
"""PennyLane's simulators of a state vector and of a density matrix."""


def qnode_of(
    circuit: VariationalCircuit,
    *,
    device: Any = None,
    shots: int | None = None,
    depolarizing: float = 0.0,
    gradient: str = "best",
) -> Any:
    """Returns the circuit as a PennyLane ``QNode`` of ``(angles, weights)``.

    Angles are ``(B, qubits)`` or ``(qubits,)``, weights ``(layers, qubits, 3)``; it returns a tuple of ``qubits``
    expectations.

    Args:
        circuit: Its size and CNOTs are taken, not its weights.
        device: A PennyLane device, or the name of one; ``default.qubit`` if not given, ``default.mixed`` with noise.
        shots: Measurements of each expectation; ``None`` for exact ones.
        depolarizing: Probability of a depolarizing error behind each gate, on each of its qubits.
        gradient: PennyLane's ``diff_method``.

    Raises:
        ConfigError: A value is out of range, or no device of this name is installed.
    """
    if not 0 <= depolarizing <= 0.75:
        raise ConfigError("depolarizing", expected="0 to 0.75", actual=depolarizing)
    if shots is not None and shots < 1:
        raise ConfigError("shots", expected="1 or more, or None", actual=shots)
    chosen = _device(device or (MIXED if depolarizing else EXACT), circuit.qubits)

    def noisy(wires: tuple[int, ...]) -> None:
        if depolarizing:
            for wire in wires:
                qml.DepolarizingChannel(depolarizing, wires=wire)

    def run(angles: Any, weights: Any) -> Any:
        for layer, pairs in enumerate(circuit.entanglers()):
            for qubit in range(circuit.qubits):
                qml.RY(angles[..., qubit], wires=qubit)
                noisy((qubit,))
                qml.Rot(*(weights[layer, qubit, number] for number in range(3)), wires=qubit)
                noisy((qubit,))
            for pair in pairs:
                qml.CNOT(wires=pair)
                noisy(pair)
        return tuple(qml.expval(qml.PauliZ(qubit)) for qubit in range(circuit.qubits))

    node = qml.QNode(run, chosen, diff_method=gradient)
    return node if shots is None else qml.set_shots(node, shots=shots)


def _device(given: Any, qubits: int) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return qml.device(given, wires=qubits)
    except qml.exceptions.DeviceError as error:
        raise ConfigError(
            "device",
            expected="a device that PennyLane knows",
            actual=given,
            action="Install its plug-in (https://pennylane.ai/plugins), or give a device that you have made.",
        ) from error
