"""Going on from weights that are there: a bundle's, also of an INT8 one, or an ONNX file's."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor, nn

from lineside_converters.compress.cleanup import clean_graph
from lineside_converters.compress.dequantize import dequantize, is_quantized
from lineside_converters.compress.mirror import is_mirrored
from lineside_converters.compress.prune.network import Network, open_network
from lineside_models.networks.detector import PRIOR, STRIDES
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import InputNotFoundError, TrainingError, UnsupportedModelError

PRECISIONS = ("fp32", "int8")
"""Of the variants to start from, the best first."""


def open_start(model: Path, frames: Sequence[Tensor]) -> Network:
    """Returns a model as a network that can be trained further.

    Args:
        model: A bundle, of which the float variant is taken or else the INT8 one, or an ``.onnx`` file.
        frames: Prepared inputs, to prove on that it computes the same and to count its batch norms' statistics on.

    Raises:
        InputNotFoundError: There is no such file.
        UnsupportedModelError: The bundle has no ONNX variant.
        GraphError: It is quantised in a form that can't be undone.
        PruningError: It has an operator that can't be trained here.
    """
    if not model.exists():
        raise InputNotFoundError(f"no model at {model}")
    source = model if model.suffix == ".onnx" else _best_variant(open_bundle(model))
    with tempfile.TemporaryDirectory(prefix="lineside-start-") as folder:
        floats = source
        if is_quantized(onnx.load(source)):
            floats = Path(folder, "float.onnx")
            dequantize(source, floats)
        clean = Path(folder, "clean.onnx")
        clean_graph(floats, clean)
        return open_network(clean, frames)


def check_outputs(network: Network, expected: Sequence[str], model: Path) -> None:
    """Refuses a network that doesn't answer as the trained one does.

    Raises:
        TrainingError: It has other outputs.
    """
    if network.output_names != tuple(expected):
        raise TrainingError(
            f"{model} can't be started from: its outputs are others",
            expected=list(expected),
            actual=list(network.output_names),
            action="Give a surface detector of lineside, such as surface-12.",
        )


def with_types(network: Network, types: int) -> bool:
    """Gives a detector score heads for so many types, where it has others; all else stays as it was taught.

    Args:
        network: A surface detector; changed in place.
        types: How many types it is to tell apart.

    Returns:
        Whether the heads are new.
    """
    graph: Any = network.module.graph
    answers = next(node for node in graph.nodes if node.op == "output").args[0]
    heads = [str(node.target) for node in answers[: len(STRIDES)]]
    old = [network.module.get_submodule(name) for name in heads]
    if all(isinstance(each, nn.Conv2d) and each.out_channels == types for each in old):
        return False
    for name, each in zip(heads, old, strict=True):
        if not isinstance(each, nn.Conv2d):
            raise TrainingError("the scores come from no convolution", actual=type(each).__name__)
        new = nn.Conv2d(each.in_channels, types, each.kernel_size)  # type: ignore[arg-type]  # torch's stubs
        nn.init.normal_(new.weight, std=0.01)
        nn.init.constant_(new.get_parameter("bias"), -math.log((1 - PRIOR) / PRIOR))
        parent, _, child = name.rpartition(".")
        setattr(network.module.get_submodule(parent), child, new)
    return True


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
