"""Torch definitions of the networks that lineside knows by name. Host only: importing this imports torch.

A weights file is a plain state dict. Which network it belongs to is told by its keys, so that a ``.pt``
can be loaded with ``weights_only`` and nothing in it is ever run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lineside_models.networks.classifier import SurfaceClassifier
from lineside_models.networks.detector import SurfaceDetector
from lineside_models.networks.segmenter import SurfaceSegmenter
from lineside_runtime.errors import UnsupportedModelError

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "surface_classifier_lite0": SurfaceClassifier,
    "surface_detector_lite0": SurfaceDetector,
    "surface_segmenter_lite0": SurfaceSegmenter,
}

# Keys that only this architecture has.
_MARKS: dict[str, frozenset[str]] = {
    "surface_classifier_lite0": frozenset({"trunk.early.0.bias", "top.1.weight", "head.weight"}),
    "surface_detector_lite0": frozenset(
        {"trunk.early.0.weight", "trunk.stage32.0.conv_pw.weight", "neck.laterals.0.0.weight", "cls_heads.2.2.weight"}
    ),
    "surface_segmenter_lite0": frozenset({"trunk.early.0.bias", "laterals.3.0.weight", "smooth.2.0.weight"}),
}


def build(name: str, **options: Any) -> nn.Module:
    """Builds a known architecture with random weights; needs nothing from a network or a disk.

    Args:
        name: A key of `ARCHITECTURES`.
        **options: Options of the architecture, such as ``num_classes``.

    Raises:
        UnsupportedModelError: No such architecture.
    """
    if name not in ARCHITECTURES:
        raise UnsupportedModelError(f"no architecture {name!r}", expected=sorted(ARCHITECTURES))
    return ARCHITECTURES[name](**options)


def is_known(state_dict: Mapping[str, Tensor]) -> bool:
    """Returns whether the keys are those of a known architecture, whatever the shapes."""
    return any(marks <= state_dict.keys() for marks in _MARKS.values())


def recognise(state_dict: Mapping[str, Tensor]) -> str:
    """Returns the name of the architecture whose weights these are.

    Raises:
        UnsupportedModelError: The keys are of no known architecture.
    """
    for name, marks in _MARKS.items():
        if marks <= state_dict.keys():
            return name
    raise UnsupportedModelError(
        "the state dict is of no architecture that lineside knows",
        expected=sorted(ARCHITECTURES),
        actual=f"keys such as {sorted(map(str, state_dict))[:3]}",
        action="Export the model to ONNX and give that file.",
    )


def from_state_dict(state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Builds the architecture that the weights belong to and loads them.

    Returns:
        The network in evaluation mode.

    Raises:
        UnsupportedModelError: The keys or shapes are of no known architecture.
    """
    name = recognise(state_dict)
    try:
        model = build(name, **_options(name, state_dict))
        model.load_state_dict(state_dict)
    except (RuntimeError, KeyError) as error:
        raise UnsupportedModelError(f"the weights do not fit {name}", actual=str(error).splitlines()[-1]) from error
    return model.eval()


def _options(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, int]:
    """Returns the number of types, the width, the input channels and the length of the trunk that weights have."""
    if name == "surface_classifier_lite0":
        return {"num_classes": len(state_dict["head.bias"]), "channels": state_dict["trunk.early.0.weight"].shape[1]}
    if name == "surface_segmenter_lite0":
        return {"num_classes": len(state_dict["head.1.bias"]) - 1, "channels": len(state_dict["laterals.3.0.weight"])}
    return {
        "num_classes": len(state_dict["cls_heads.0.2.bias"]),
        "channels": len(state_dict["neck.laterals.0.0.weight"]),
        "inputs": state_dict["trunk.early.0.weight"].shape[1],
        "short": "trunk.stage32.1.conv_pw.weight" not in state_dict,
        "folded": "trunk.early.1.weight" not in state_dict,
    }
