"""Schemes to average gradients over workers."""

from lineside_converters.training.distributed.gradients.local import Local
from lineside_converters.training.distributed.gradients.low_rank import LowRank
from lineside_converters.training.distributed.gradients.plain import BFloat16, Float32
from lineside_converters.training.distributed.gradients.quantized import Int4, Int8
from lineside_converters.training.distributed.gradients.scheme import GradientScheme

SCHEMES: dict[str, type[GradientScheme]] = {kind.name: kind for kind in (Float32, BFloat16, Int8, Int4, LowRank, Local)}
"""All of them by name, the most exact first."""

__all__ = ["SCHEMES", "BFloat16", "Float32", "GradientScheme", "Int4", "Int8", "Local", "LowRank"]
