"""`lineside.Optimizer`: the converters' optimizer, or an error that names what to install."""

from __future__ import annotations

from lineside.extras import needs

with needs("convert"):
    from lineside_converters.optimizer import Optimizer

__all__ = ["Optimizer"]
