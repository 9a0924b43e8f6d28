"""How a model is quantized, as the search decides it."""

from __future__ import annotations

from typing import Literal

import msgspec

from lineside_converters.levels import CalibrationMethod

DYNAMIC: Literal["dynamic"] = "dynamic"
Method = CalibrationMethod | Literal["dynamic"]


class QuantizationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is quantized.

    Attributes:
        method: How ranges are taken; ``dynamic`` takes them while the model runs, for models of matrix products.
        float_nodes: Names of nodes that stay in float.
        why: Reason for the report, in a few words.
    """

    method: Method
    float_nodes: tuple[str, ...] = ()
    corrected: bool = False
    why: str = "quantised"


class LayerHarm(msgspec.Struct, frozen=True, kw_only=True):
    """Effect of quantizing one layer alone.

    Attributes:
        node: Name of the layer's node.
        share: Power of the error of the worst output, as a share of the output's own.
    """

    node: str
    share: float


class QuantizationChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Result of the quantization search.

    Attributes:
        tuning_drop: Drop of the metric on the tuning frames; ``None`` if nothing could be measured.
        harms: Effect of each layer, worst first; empty if it was not needed.
        held: Whether the drop is within its bound on the tuning frames.
    """

    plan: QuantizationPlan
    tuning_drop: float | None = None
    harms: tuple[LayerHarm, ...] = ()
    held: bool = True


NOT_QUANTIZED = QuantizationChoice(plan=QuantizationPlan(method="minmax", why="level 0"))
"""Of a candidate in float; its plan is part of the hash of converted files."""
