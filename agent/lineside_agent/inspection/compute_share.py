"""The share of each of several models in the time of one part, measured on this device.

It decides which of them try the NPU before the GPU (`Config.npu_threshold`); where no share changes the device of any
model, nothing is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lineside_agent.inspection.variant_selection import time_variant
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.serving.candidates import choose, variant_named

log = logging.getLogger("lineside.agent")


def compute_shares(models: Sequence[tuple[Bundle, Config]], known_ms: Sequence[float] = ()) -> list[float]:
    """Returns the share of each model, 0 to 1, in their order; 1 for each where no share decides.

    Each is called with one frame, on the device that it would take if it were the only one. A model that nothing here
    runs counts nothing: loading it raises the error.

    Args:
        known_ms: Times of the models for one part as they were measured on the line, in their order; empty if they are
            not known.

    Raises:
        NoDeviceError: Nothing here runs one of them.
    """
    if not any(_decides(bundle, config) for bundle, config in models):
        return [1.0] * len(models)
    spent = list(known_ms) or [_call_ms(bundle, config) for bundle, config in models]
    total = sum(spent) or 1.0
    shares = [ms / total for ms in spent]
    figures = ", ".join(
        f"{bundle.manifest.identity} {ms:.2f} ms ({share:.0%})"
        for (bundle, _), ms, share in zip(models, spent, shares, strict=True)
    )
    log.info("shares of the compute, measured here: %s", figures)
    return shares


def _call_ms(bundle: Bundle, config: Config) -> float:
    manifest = bundle.manifest
    variant = variant_named(manifest, config.variant) if config.variant else manifest.variants[0]
    return time_variant(bundle, variant, config).ms or 0.0


def _decides(bundle: Bundle, config: Config) -> bool:
    """Returns whether the first device depends on the share."""
    first = [choose(bundle.manifest, config, share=share).at(0) for share in (0.0, 1.0)]
    return str(first[0]) != str(first[1])
