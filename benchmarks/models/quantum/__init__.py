"""A quantum head beside classical heads of equal parameters and equal tuning, on frozen INT8 features."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from benchmarks.models.quantum.data import SETS, Task, load_task
from benchmarks.models.quantum.heads import HEADS, LAYERS, QUBITS, fitted_circuit
from benchmarks.models.quantum.protocol import FOLDS, SEEDS, TRIALS, compare
from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, spread
from lineside_converters.training.quantum.head import run_on_device
from lineside_converters.training.quantum.packaging import PARITY, difference_from_pennylane, export_head
from lineside_models.anomaly.features import features_bundle
from lineside_models.quantum.network import DressedCircuit
from lineside_models.quantum.pennylane_circuit import qnode_of

SHOTS = 1024
NOISE = (0.0, 0.001, 0.01)
"""Probabilities of a depolarizing error behind each gate."""

FRAMES = scaled(100, smoke=4)
"""Frames of the val fold that are judged with shots and noise."""

ROUNDS = scaled(200, smoke=3)
ANGLES = scaled(4, smoke=1)
"""Sets of angles whose gradients are compared with PennyLane's."""

HEAD_MS = 1.0


def run() -> dict[str, Any]:
    """Measures all heads on all sets, then the circuit itself."""
    torch.set_num_threads(1)
    tasks = [load_task(name) for name in SETS]
    rows = [compare(task) for task in tasks]
    networks = [_trained(task, row) for task, row in zip(tasks, rows, strict=True)]
    return {
        "baseline": "logistic regression, MLP, RBF SVM and the ablations of arXiv:2403.07059 on the same features",
        "qubits": QUBITS,
        "layers": LAYERS,
        "features": features_bundle().manifest.identity,
        "trials": TRIALS,
        "folds": FOLDS,
        "seeds": SEEDS,
        "classical": [name for name, head in HEADS.items() if head.classical],
        "rows": rows,
        "circuit": _circuit(networks[-1]),
        "noise": [_noise(task, network) for task, network in zip(tasks, networks, strict=True)],
        "goals": {"parity": PARITY, "head_ms": HEAD_MS},
    }


def _trained(task: Task, row: dict[str, Any]) -> DressedCircuit:
    """Trains the quantum head again, with its tuned settings and the first seed."""
    settings = row["heads"]["quantum"]["settings"]
    return fitted_circuit(task.train.features, task.train.labels, len(task.names), settings, 0)


def _circuit(network: DressedCircuit) -> dict[str, Any]:
    """Measures difference from PennyLane, gradients and time."""
    trunk = features_bundle()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "head.onnx")
        export_head(network, trunk, file)
        difference = difference_from_pennylane(network, file, trunk)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        models = {
            "head": ort.InferenceSession(file, options),
            "trunk": ort.InferenceSession(trunk.file(trunk.manifest.variants[0].file), options),
        }
        rng = np.random.default_rng(0)
        feeds = {
            "head": {each.name: rng.random((1, *each.shape[1:]), np.float32) for each in trunk.manifest.outputs},
            "trunk": {each.name: rng.random((1, *each.shape[1:]), np.float32) for each in trunk.manifest.inputs},
        }
        calls = {name: (lambda name=name: models[name].run(None, feeds[name])) for name in models}
        times = interleaved(calls, rounds=ROUNDS)
    return {
        "difference_from_pennylane": difference,
        "gradient_difference": _gradient_difference(network),
        "graph_bytes": sum(value.numel() for value in network.parameters()) * 4,
        "ms": {
            name: {**spread(found), "p99": round(float(np.percentile(found, 99)), 4)} for name, found in times.items()
        },
    }


def _gradient_difference(network: DressedCircuit) -> dict[str, float]:
    """Returns the largest difference of a weight's gradient from PennyLane's, by its way of computing it."""
    angles = torch.from_numpy(np.random.default_rng(1).uniform(-1.5, 1.5, (ANGLES, QUBITS)))
    circuit = network.circuit.double()
    circuit.weights.grad = None
    circuit(angles).sum().backward()
    own = circuit.weights.grad
    found: dict[str, float] = {}
    for way in ("backprop", "parameter-shift"):
        weights = circuit.weights.detach().clone().requires_grad_()
        node = qnode_of(circuit, gradient=way)
        sum(value for row in angles for value in node(row, weights)).backward()
        if own is None or weights.grad is None:
            raise RuntimeError("no gradient")
        found[way] = float((own - weights.grad).abs().max())
    circuit.float()
    return found


def _noise(task: Task, network: DressedCircuit) -> dict[str, Any]:
    """Returns top-1 on some val frames: exact, with shots, and with shots and noise."""
    chosen = np.random.default_rng(0).permutation(len(task.val.labels))[:FRAMES]
    some = task.val.of(np.asarray(chosen, np.int64))
    exact = run_on_device(network, some.features)
    found: dict[str, Any] = {"set": task.name, "frames": len(some.labels), "shots": SHOTS}
    found["exact"] = round(float((exact == some.labels).mean()), 4)
    for level in NOISE:
        answers = run_on_device(network, some.features, shots=SHOTS, depolarizing=level)
        found[f"depolarizing_{level:g}"] = round(float((answers == some.labels).mean()), 4)
    return found
