"""Bundle of a quantum head: the INT8 trunk's graph with the head's nodes behind it, checked against PennyLane."""

from __future__ import annotations

import dataclasses
import io
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import compose

from lineside_converters.bundles.packaging import CARD_NAME, LABELS_NAME, golden_frame
from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.reports.report import REPORT_NAME
from lineside_converters.training.classification.trainer import OUTPUT, READING
from lineside_models.anomaly.features import features_bundle
from lineside_models.golden import record
from lineside_models.quantum.network import DressedCircuit, InferenceGraph
from lineside_models.quantum.pennylane_circuit import qnode_of
from lineside_models.verdict.good_classes import rule_of, with_good_classes
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import Bundle, Manifest, open_bundle, time_now, write_manifest
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.config import Config
from lineside_runtime.errors import BundleFormatError, GraphError, ParityGateError
from lineside_runtime.files import write_atomic
from lineside_runtime.session import Session

PARITY = 1e-6
"""Largest difference of an expectation from PennyLane's."""

WEIGHTS_NAME = "quantum.npz"
WEIGHTS_MAX_BYTES = 64 << 20
_PREFIX = "head/"
_CHECKED = 64


@dataclasses.dataclass(frozen=True, slots=True)
class HeadFacts:
    """Facts of a head for report and card.

    Attributes:
        labels: Class names in the order of the logits.
        good_classes: Those that mean a good part; ``None`` goes by their names.
        held_top1: On the images that were held out of the training.
        images: Numbers of images: trained on, held out.
    """

    labels: tuple[str, ...]
    good_classes: tuple[str, ...] | None
    held_top1: float
    images: Mapping[str, int]
    settings: Mapping[str, Any]


def write_bundle(
    head: DressedCircuit,
    facts: HeadFacts,
    out: Path,
    *,
    name: str,
    version: str,
    overwrite: bool = False,
) -> Bundle:
    """Writes the bundle of the trunk and a head.

    Raises:
        InputError: Something stands at ``out``.
        ParityGateError: The graph does not compute what PennyLane does.
        DiskFullError: There is no room; nothing half-written remains.
    """
    check_target(out, overwrite=overwrite)
    trunk = features_bundle()
    variant = trunk.manifest.variants[0]
    with staging_folder(out) as folder:
        (folder / variant.file).parent.mkdir()
        difference = write_graph(head, trunk, folder / variant.file)
        write_atomic(folder / WEIGHTS_NAME, _weights(head))
        write_atomic(folder / LABELS_NAME, msgspec.json.encode(facts.labels))
        report = msgspec.json.encode(_report(head, facts, trunk, difference))
        write_atomic(folder / REPORT_NAME, msgspec.json.format(report, indent=1))
        manifest = _manifest(facts, trunk, folder / variant.file, name, version)
        write_atomic(folder / CARD_NAME, _card(manifest, head, facts, trunk).encode())
        with Session(write_manifest(folder, manifest), Config(engines=("ort",), threads=1)) as session:
            golden = record(session, folder, golden_frame())
        write_manifest(folder, msgspec.structs.replace(manifest, golden=golden))
        open_bundle(folder)
        install_bundle(folder, out)
    return open_bundle(out, verify=False)


def write_graph(head: DressedCircuit, trunk: Bundle, path: Path) -> float:
    """Writes trunk and head as one ONNX file: an image in, logits out.

    Returns:
        The largest difference of an expectation from PennyLane's, on random features.

    Raises:
        GraphError: The pieces don't fit together.
        ParityGateError: The difference is above `PARITY`.
    """
    with tempfile.TemporaryDirectory(prefix="lineside-quantum-") as scratch:
        piece = Path(scratch) / "head.onnx"
        export_head(head, trunk, piece)
        difference = difference_from_pennylane(head, piece, trunk)
        model, tail = onnx.load(trunk.file(trunk.manifest.variants[0].file)), onnx.load(piece)
    versions = [{each.domain: each.version for each in one.opset_import}.get("") for one in (model, tail)]
    if versions[0] != versions[1]:
        raise GraphError("opset of the trunk", expected=versions[1], actual=versions[0])
    compose.add_prefix(tail, _PREFIX, rename_inputs=False, rename_outputs=False, inplace=True)
    model.graph.node.extend(tail.graph.node)
    model.graph.initializer.extend(tail.graph.initializer)
    del model.graph.output[:]
    model.graph.output.extend(each for each in tail.graph.output if each.name == OUTPUT)
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, model.SerializeToString(deterministic=True))
    return difference


def export_head(head: DressedCircuit, trunk: Bundle, path: Path) -> None:
    """Writes the head alone as ONNX: the trunk's maps in; ``logits``, ``expectations`` and ``angles`` out.

    Raises:
        ParityGateError: It does not compute what torch does.
    """
    inputs = [spec.name for spec in trunk.manifest.outputs]
    outputs = [OUTPUT, "expectations", "angles"]
    maps = tuple(torch.from_numpy(each) for each in _random_maps(trunk, 1))
    export_onnx(
        InferenceGraph(head),
        path,
        example=maps,
        input_name=inputs,
        output_names=outputs,
        dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
        check=(tuple(torch.from_numpy(each) for each in _random_maps(trunk, 2)),),
    )


def difference_from_pennylane(head: DressedCircuit, graph: Path, trunk: Bundle) -> float:
    """Returns the largest difference of an expectation of the ONNX graph from PennyLane's, at the graph's angles.

    Raises:
        ParityGateError: It is above `PARITY`.
    """
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in trunk.manifest.outputs]
    feeds = dict(zip(names, _random_maps(trunk, _CHECKED), strict=True))
    found, angles = session.run(["expectations", "angles"], feeds)
    circuit = qnode_of(head.circuit)
    weights = head.circuit.weights.detach().double().numpy()
    wanted = np.stack(circuit(angles.astype(np.float64), weights), axis=1)
    difference = float(np.abs(wanted - found).max())
    if not difference <= PARITY:
        raise ParityGateError(
            "the circuit's graph does not compute what PennyLane does", expected=f"<= {PARITY:g}", actual=difference
        )
    return difference


def read_weights(bundle: Bundle) -> tuple[DressedCircuit, tuple[str, ...]]:
    """Reads the head of a bundle as torch, and the names of its classes.

    Raises:
        BundleFormatError: The bundle holds no quantum head.
    """
    action = "Give a bundle of `lineside train quantum-head`."
    if WEIGHTS_NAME not in bundle.manifest.files:
        raise BundleFormatError(f"{bundle.manifest.identity} holds no quantum head", action=action)
    path = bundle.file(WEIGHTS_NAME)
    if path.stat().st_size > WEIGHTS_MAX_BYTES:
        raise BundleFormatError(f"{path} is too large", expected=f"at most {WEIGHTS_MAX_BYTES} bytes", action=action)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            state = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
        layers, qubits, _ = state["circuit.weights"].shape
        head = DressedCircuit(len(state["mean"]), qubits, layers, len(bundle.manifest.labels))
        head.load_state_dict(state)
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise BundleFormatError(f"{path} is no quantum head: {error}", action=action) from error
    return head.eval(), bundle.manifest.labels


def _random_maps(trunk: Bundle, batch: int) -> list[npt.NDArray[np.float32]]:
    """Returns random numbers in the shapes of the trunk's maps."""
    rng = np.random.default_rng(batch)
    return [rng.standard_normal((batch, *spec.shape[1:]), np.float32) for spec in trunk.manifest.outputs]


def _weights(head: DressedCircuit) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value.numpy() for name, value in head.state_dict().items()})
    return buffer.getvalue()


def _manifest(facts: HeadFacts, trunk: Bundle, model: Path, name: str, version: str) -> Manifest:
    onnx_facts = read_onnx(model)
    return msgspec.structs.replace(
        trunk.manifest,
        name=name,
        version=version,
        created_at=time_now(),
        task="classification",
        labels=facts.labels,
        inputs=onnx_facts.inputs,
        outputs=onnx_facts.outputs,
        postprocess=with_good_classes(READING, facts.labels, facts.good_classes),
        golden=None,
        files={},
    )


def _report(head: DressedCircuit, facts: HeadFacts, trunk: Bundle, difference: float) -> dict[str, Any]:
    return {
        "schema": 1,
        "task": "classification",
        "features": trunk.manifest.identity,
        "features_sha256": trunk.digest,
        "qubits": head.circuit.qubits,
        "layers": head.circuit.layers,
        "parameters": sum(value.numel() for value in head.parameters()),
        "difference_from_pennylane": difference,
        "images": dict(facts.images),
        "held_top1": facts.held_top1,
        "settings": dict(facts.settings),
    }


def _card(manifest: Manifest, head: DressedCircuit, facts: HeadFacts, trunk: Bundle) -> str:
    return _CARD.format(
        name=manifest.name,
        classes=len(facts.labels),
        trunk=trunk.manifest.identity,
        qubits=head.circuit.qubits,
        layers=head.circuit.layers,
        top1=facts.held_top1,
        rule=rule_of(manifest.postprocess, manifest.labels),
        **facts.images,
    )


_CARD = """# {name}

An experiment: tells {classes} classes apart by a simulated quantum circuit of {qubits} qubits and {layers} layers, on
features of `{trunk}` (INT8), which were not trained.

- **Accuracy**: top-1 {top1:.3f} on {held} images that were held out of the training on {train}.
- **Verdict**: {rule}
- **No quantum computer** takes part: the circuit is simulated as matrix products in float.
- **No advantage is claimed**: linear heads and small networks on the same features are compared in docs/quantum.md.
- **Boxes**: of data with boxes, training and accuracy are of crops around the largest box.
"""
