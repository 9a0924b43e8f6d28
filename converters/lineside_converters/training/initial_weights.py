"""Initial weights of a training: of a bundle (also INT8), an ONNX file, or ImageNet's."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx
import torch
from torch import Tensor, nn

from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.graph.dequantize import dequantize, is_quantized
from lineside_converters.graph.mirror import is_mirrored
from lineside_converters.pruning.torch_graph import PrunableNetwork, open_network
from lineside_models.networks.detector import PRIOR
from lineside_models.vision.model_facts import ModelFacts, from_metadata, from_sidecar
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import InputNotFoundError, TrainingError, UnsupportedModelError

PRECISIONS = ("fp32", "int8")
"""Precisions of variants to start from, the best first."""


FLOAT, FACTS = "float.onnx", "training.json"
"""Files of a finished run."""

TRUNK_RATE = 0.4
"""Share of the learning rate for weights from ImageNet."""

NORM_BATCHES = 12
"""Batches for the statistics of batch norms."""

PRIOR_BIAS = -math.log((1 - PRIOR) / PRIOR)
"""Initial bias of a detector's score heads."""


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A model to start from.

    Attributes:
        name: Of its file or folder, for people.
        network: The model in a form that can be trained.
        facts: Its facts; labels are ``None`` if it states none.
    """

    name: str
    network: PrunableNetwork
    facts: ModelFacts


def open_start(model: Path, frames: Sequence[Tensor]) -> InitialModel:
    """Returns a model as a network that can be trained further.

    Args:
        model: A bundle, of which the float variant is taken or else the INT8 one, an ``.onnx`` file, or the folder of a
            finished run.
        frames: Prepared inputs, to prove on that it computes the same and to count its batch norms' statistics on.

    Raises:
        InputNotFoundError: There is no such file.
        UnsupportedModelError: It is a file of another kind, or the bundle has no ONNX variant.
        GraphError: It is quantised in a form that can't be undone.
        PruningError: It has an operator that can't be trained here.
    """
    source, facts = _found(model)
    with tempfile.TemporaryDirectory(prefix="lineside-start-") as folder:
        floats = source
        if is_quantized(onnx.load(source)):
            floats = Path(folder, FLOAT)
            dequantize(source, floats)
        clean = Path(folder, "clean.onnx")
        clean_graph(floats, clean)
        return InitialModel(model.name, open_network(clean, frames), facts)


def facts_of_start(model: Path) -> ModelFacts:
    """Returns the facts of a model to start from."""
    return _found(model)[1]


def _found(model: Path) -> tuple[Path, ModelFacts]:
    """Returns the ONNX file of a model, and its facts."""
    if not model.exists():
        raise InputNotFoundError(f"no model at {model}")
    if (model / FLOAT).is_file():
        model = model / FLOAT
    if model.suffix == ".onnx":
        facts = from_sidecar(model).over(from_metadata(read_onnx(model), str(model)))
        return model, facts.over(_facts_of_run(model.parent / FACTS))
    if not model.is_dir():
        raise UnsupportedModelError(
            f"{model} can't be started from",
            expected="a bundle's folder or a shipped one's name, an .onnx file, or the folder of a finished run",
            action="Of a run give the folder: its float.onnx holds the weights of best.pt.",
        )
    bundle = open_bundle(model)
    manifest = bundle.manifest
    known = ModelFacts(labels=manifest.labels, preprocess=manifest.preprocess, postprocess=manifest.postprocess)
    return _best_variant(bundle), known


def _facts_of_run(path: Path) -> ModelFacts:
    if not path.is_file():
        return ModelFacts()
    try:
        content = decode_json(path.read_bytes(), type=dict[str, Any])
        return msgspec.convert(
            {name: content[name] for name in ("labels", "preprocess") if name in content}, ModelFacts
        )
    except msgspec.DecodeError as error:
        raise TrainingError(f"{path} is damaged", actual=error) from error


def check_outputs(start: InitialModel, expected: Sequence[str], what: str) -> None:
    """Refuses a network whose outputs have other names.

    Raises:
        TrainingError: It has other outputs.
    """
    if start.network.output_names != tuple(expected):
        raise TrainingError(
            f"{start.name} can't be started from: its outputs are others",
            expected=list(expected),
            actual=list(start.network.output_names),
            action=f"Give {what}.",
        )


def take_labels(
    start: InitialModel, labels: Sequence[str], *, heads: int = 1, background: int = 0, bias: float = 0.0
) -> str:
    """Gives a network outputs for other labels; the weights of labels that it had before stay.

    Args:
        start: Its network is changed in place.
        heads: Of its outputs, the first so many have a channel a label.
        background: Channels before that of the first label, which stay as they are.

    Returns:
        Description of what was kept.

    Raises:
        TrainingError: The outputs come from no layer whose rows are the labels'.
    """
    old = _old_labels(start, labels, heads, background)
    if old == list(labels):
        return f"all {len(labels)} types are known to it"
    shared = [label for label in labels if label in old]
    for name in _heads(start.network.module, heads):
        parent, _, child = name.rpartition(".")
        layer = start.network.module.get_submodule(name)
        setattr(start.network.module.get_submodule(parent), child, _relabelled(layer, old, labels, background, bias))
    if not shared:
        return f"none of the {len(labels)} types is known to it: its outputs begin anew"
    fresh = [label for label in labels if label not in old]
    return f"{', '.join(shared)} known to it" + (f"; {', '.join(fresh)} new" if fresh else "")


def _old_labels(start: InitialModel, labels: Sequence[str], heads: int, background: int) -> list[str]:
    """Returns the labels of the network; without facts, the new ones if their number is the same."""
    rows = {_layer(start, name).weight.shape[0] - background for name in _heads(start.network.module, heads)}
    if len(rows) != 1:
        raise TrainingError(f"the outputs of {start.name} have not one number of types", actual=sorted(rows))
    count = rows.pop()
    if start.facts.labels is not None and len(start.facts.labels) == count:
        return list(start.facts.labels)
    return list(labels) if count == len(labels) else [""] * count


def _layer(start: InitialModel, name: str) -> nn.Conv2d | nn.Linear:
    layer = start.network.module.get_submodule(name)
    if not isinstance(layer, (nn.Conv2d, nn.Linear)):
        raise TrainingError(
            f"the types of {start.name} come from no convolution or matrix", actual=type(layer).__name__
        )
    return layer


def _heads(module: Any, count: int) -> list[str]:
    """Returns the names of the modules that give the first outputs of a graph; empty ones where a function does."""
    answers = next(node for node in module.graph.nodes if node.op == "output").args[0]
    nodes = answers if isinstance(answers, (tuple, list)) else (answers,)
    return [str(node.target) if node.op == "call_module" else "" for node in nodes[:count]]


@torch.no_grad()
def _relabelled(layer: Any, old: Sequence[str], new: Sequence[str], background: int, bias: float) -> nn.Module:
    rows = background + len(new)
    made: nn.Conv2d | nn.Linear
    if isinstance(layer, nn.Conv2d):
        made = nn.Conv2d(layer.in_channels, rows, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[arg-type]
    else:
        made = nn.Linear(layer.in_features, rows)
    nn.init.normal_(made.weight, std=0.01)
    offsets = made.get_parameter("bias")
    nn.init.constant_(offsets, bias)
    pairs = [(number, number) for number in range(background)]
    pairs += [(background + new.index(label), background + old.index(label)) for label in new if label in old]
    for to, source in pairs:
        made.weight[to] = layer.weight[source]
        offsets[to] = 0.0 if layer.bias is None else layer.bias[source]
    return made


def _best_variant(bundle: Bundle) -> Path:
    for precision in PRECISIONS:
        for variant in bundle.manifest.variants:
            if (variant.format, variant.precision) == ("onnx", precision) and not is_mirrored(variant):
                return bundle.file(variant.file)
    raise UnsupportedModelError(
        f"{bundle.manifest.identity} has no weights to start from",
        expected="a variant of format onnx, fp32 or int8",
        actual=[f"{each.name}: {each.format} {each.precision}" for each in bundle.manifest.variants],
    )


@torch.no_grad()
def see_new_images(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Estimates the batch norms of a network, not yet folded, on other images than those it was trained on."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain average over the batches
    network.train()
    for batch in images:
        network(batch)
    for norm in norms:
        norm.momentum = 0.1


def rate_of(peak: float) -> Callable[[str], float]:
    """Returns the peak learning rate by the name of a parameter: less for weights from ImageNet."""
    return lambda name: peak * (TRUNK_RATE if name.startswith(("trunk.", "top.")) else 1.0)
