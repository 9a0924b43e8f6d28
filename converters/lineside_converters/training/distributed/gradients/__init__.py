"""Schemes to average gradients over workers."""

from lineside_converters.training.distributed.gradients.int8 import Int8
from lineside_converters.training.distributed.gradients.low_rank import LowRank
from lineside_converters.training.distributed.gradients.plain import BFloat16, Float32
from lineside_converters.training.distributed.gradients.scheme import GradientScheme

SCHEMES: dict[str, type[GradientScheme]] = {kind.name: kind for kind in (Float32, BFloat16, Int8, LowRank)}
"""All of them by name."""

__all__ = ["SCHEMES", "BFloat16", "Float32", "GradientScheme", "Int8", "LowRank"]
