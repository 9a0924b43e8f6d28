"""`QuantumHead`: train, evaluate and export a quantum classifier head in a few calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from lineside_converters.gates.baseline import LEAST_SHARE
from lineside_converters.training.quantum.features import Floats, Ints, read_fold, read_train
from lineside_converters.training.quantum.fitting import FittingSettings, fit, predict, standardize
from lineside_converters.training.quantum.packaging import HeadFacts, read_weights, write_bundle
from lineside_models.quantum.circuit import check_size
from lineside_models.quantum.network import DressedCircuit
from lineside_models.quantum.pennylane_circuit import qnode_of
from lineside_models.vision.onnx_bundle import name_of
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import AccuracyGateError, TrainingError
from lineside_runtime.progress import TextListener

HELD_SHARE = 0.15
_EVERY = 10  # epochs between two lines of progress

Data = Path | str | Sequence[Path | str]


class QuantumHead:
    """A classifier head with a variational quantum circuit, on frozen INT8 features. An experiment.

    ::

        head = QuantumHead(qubits=6, layers=3)
        head.train("data/x-sdd")
        print(head.evaluate("data/x-sdd"))
        print(head.evaluate("data/x-sdd", shots=1024, depolarizing=0.01))
        bundle = head.optimize("x-sdd-quantum")
    """

    def __init__(self, qubits: int = 6, layers: int = 3, *, seed: int = 0, **settings: Any) -> None:
        """Checks the settings.

        Args:
            qubits: 2 to 8.
            layers: 1 to 8; each brings in the input again, rotates every qubit and entangles neighbours.
            seed: Of the weights and the order of the images.
            **settings: Fields of `FittingSettings`: ``epochs``, ``batch``, ``learning_rate``, ``weight_decay``.

        Raises:
            ConfigError: The size of the circuit is out of range.
            TrainingError: A setting is out of range.
            TypeError: There is no such setting.
        """
        check_size(qubits, layers)
        self.qubits, self.layers, self.seed = qubits, layers, seed
        self.settings = FittingSettings(**settings)
        self._network: DressedCircuit | None = None
        self._facts = HeadFacts((), None, 0.0, {}, {})

    @classmethod
    def load(cls, bundle: Bundle | Path | str) -> QuantumHead:
        """Opens a bundle that `optimize` wrote, to evaluate its head.

        Raises:
            BundleFormatError: It holds no quantum head.
        """
        opened = open_bundle(bundle) if isinstance(bundle, (str, Path)) else bundle
        network, labels = read_weights(opened)
        head = cls(network.circuit.qubits, network.circuit.layers)
        head._network = network
        head._facts = dataclasses.replace(head._facts, labels=labels)
        return head

    @property
    def network(self) -> DressedCircuit:
        """The trained network.

        Raises:
            TrainingError: The head is not trained.
        """
        if self._network is None:
            raise TrainingError("the head is not trained", action="Call train first, or QuantumHead.load.")
        return self._network

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits; none before `train`."""
        return self._facts.labels

    def train(
        self,
        data: Data,
        *,
        held_share: float = HELD_SHARE,
        good_classes: Sequence[str] | None = None,
        on_progress: TextListener = lambda text: None,
    ) -> float:
        """Computes the features, and trains on those of the train folds.

        Gradients are exact: they go back through the simulated circuit.

        Args:
            data: Folder of annotated images, or several.
            held_share: Share of the parts that is held out, to measure the accuracy.
            good_classes: Classes that mean a good part; ``None`` goes by names such as ``good`` or ``free``.
            on_progress: Told in words what is done.

        Returns:
            Top-1 on the images that were held out.

        Raises:
            DatasetError: A folder is not usable.
            TrainingError: ``held_share`` is out of range, or the loss is not finite.
        """
        if not 0.01 <= held_share <= 0.5:
            raise TrainingError("held_share is not usable", expected="0.01 to 0.5", actual=held_share, action="")
        rest, held = read_train(_folders(data), held_share=held_share, on_count=_counter(on_progress))

        def on_epoch(epoch: int, loss: float) -> None:
            if epoch % _EVERY == 0 or epoch == self.settings.epochs:
                on_progress(f"epoch {epoch} of {self.settings.epochs}, loss {loss:.3f}")

        network = make_network(rest.rows, len(rest.names), self.qubits, self.layers, seed=self.seed)
        fit(network, rest.rows, rest.labels, self.settings, seed=self.seed, on_epoch=on_epoch)
        found = predict(network, held.rows)
        top1 = float((found == held.labels).mean())
        self._facts = HeadFacts(
            rest.names,
            None if good_classes is None else tuple(good_classes),
            top1,
            {"train": len(rest.labels), "held": len(held.labels)},
            {**msgspec.to_builtins(self.settings), "seed": self.seed, "recall": mean_recall(found, held.labels)},
        )
        self._network = network
        return top1

    def evaluate(
        self,
        data: Data,
        fold: str = "val",
        *,
        shots: int | None = None,
        depolarizing: float = 0.0,
        device: Any = None,
        on_progress: TextListener = lambda text: None,
    ) -> float:
        """Returns top-1 on a fold.

        Args:
            data: Folder of annotated images, or several.
            fold: Of the folders, or ``all``.
            shots: Measurements of each expectation; ``None`` for exact ones.
            depolarizing: Probability of an error behind each gate.
            device: A PennyLane device or its name, such as one of a plug-in for hardware; a simulator if not given.
            on_progress: Told in words what is done.

        Raises:
            TrainingError: The head is not trained.
            DatasetError: A folder is not usable, or shows other classes.
            ConfigError: ``shots``, ``depolarizing`` or ``device`` is not usable.
        """
        network = self.network
        found = read_fold(_folders(data), fold, self.labels, on_count=_counter(on_progress))
        if device is None and shots is None and not depolarizing:
            return float((predict(network, found.rows) == found.labels).mean())
        answers = run_on_device(network, found.rows, shots=shots, depolarizing=depolarizing, device=device)
        return float((answers == found.labels).mean())

    def optimize(
        self, out: Path | str = "quantum-head", *, name: str = "", version: str = "1.0.0", overwrite: bool = False
    ) -> Bundle:
        """Writes the bundle: the INT8 trunk with the circuit behind it, as one ONNX graph.

        Args:
            name: Of the bundle; the folder's if not given.
            overwrite: Whether a bundle that stands there is replaced.

        Raises:
            TrainingError: The head was not trained by this object.
            InputError: Something stands at ``out``.
            AccuracyGateError: The head is hardly better than a constant answer.
            ParityGateError: The graph does not compute what PennyLane does.
        """
        if self._network is None or not self._facts.images:
            raise TrainingError("the head is not trained", action="Call train first.")
        chance, recall = 1 / len(self.labels), self._facts.settings["recall"]
        if recall < (least := chance + LEAST_SHARE * (1 - chance)):
            raise AccuracyGateError(
                "the head is hardly better than one that always gives the same answer",
                expected=f"mean recall of at least {least:.3f} on the images that were held out",
                actual=f"{recall:.3f}",
                action="Train longer or on more data.",
            )
        folder = Path(out)
        return write_bundle(
            self._network,
            self._facts,
            folder,
            name=name or name_of(folder.resolve().name),
            version=version,
            overwrite=overwrite,
        )


def make_network(
    features: Floats, classes: int, qubits: int, layers: int, *, seed: int, bond_dimension: int | None = None
) -> DressedCircuit:
    """Returns an untrained network that standardizes by these features ``(n, F)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DressedCircuit(features.shape[1], qubits, layers, classes, bond_dimension=bond_dimension)
    standardize(network, features)
    return network


@torch.no_grad()
def run_on_device(
    network: DressedCircuit,
    features: Floats,
    *,
    shots: int | None = None,
    depolarizing: float = 0.0,
    device: Any = None,
) -> Ints:
    """Returns the likeliest class ``(n,)`` of features ``(n, F)``, its circuit run by PennyLane; see `qnode_of`."""
    circuit = qnode_of(network.circuit, device=device, shots=shots, depolarizing=depolarizing)
    angles = network.angles(torch.from_numpy(features)).double().numpy()
    weights = network.circuit.weights.double().numpy()
    expectations = np.stack(circuit(angles, weights), axis=1).astype(np.float32)
    return np.asarray(network.output(torch.from_numpy(expectations)).argmax(1).numpy(), np.int64)


def mean_recall(found: Ints, labels: Ints) -> float:
    """Returns the mean over the classes of the share of their frames that is found."""
    return float(np.mean([(found[labels == label] == label).mean() for label in np.unique(labels)]))


def _folders(data: Data) -> list[Path]:
    return [Path(data)] if isinstance(data, (str, Path)) else [Path(one) for one in data]


def _counter(on_progress: TextListener) -> Any:
    return lambda done, total: on_progress(f"{done} of {total} images")
