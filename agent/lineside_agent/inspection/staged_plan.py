"""The placement that is measured when a bundle is staged, for the objective of ``[inspect]``.

The trial of a new bundle measures it in a process of its own, and keeps it beside the slot, so that neither the agent
nor a restart measures again. At the first start of a bundle that came without a deployment, the agent measures.
"""

from __future__ import annotations

import logging
from pathlib import Path

from lineside_agent.config import InspectConfig
from lineside_models.golden import read_png
from lineside_models.preprocess import prepare
from lineside_models.reference.reference_set import composed
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import LinesideError
from lineside_runtime.serving.plan_file import plan_key, read_plan, save_plan
from lineside_runtime.serving.serving_plan import AS_CONFIGURED, Objective, ServingPlan
from lineside_runtime.tensors import Array

LIMIT_S = 25.0
"""Time for loading and measuring all ways of serving a bundle."""

log = logging.getLogger("lineside.agent")


def staged_plan(
    bundle: Bundle, config: InspectConfig, settings: Config, folder: Path, *, share: float = 1.0
) -> ServingPlan:
    """Returns how a bundle is served: as configured without an objective, else as measured on this device.

    Args:
        settings: The engine's settings of ``config``.
        share: The model's share of the compute of everything that runs on this device, 0 to 1.

    Raises:
        LinesideError: Nothing here runs the bundle.
    """
    if not config.objective:
        return AS_CONFIGURED
    objective = Objective(kind=config.objective, rate_hz=config.rate_hz)
    path = folder / f"{plan_key(bundle, settings)[:16]}.plan.json"
    plan = read_plan(path, bundle, settings)
    if plan is None or plan.objective != objective:
        log.info("%s: measuring the ways of serving it here", bundle.manifest.identity)
        from lineside_runtime.planning import plan_placement  # only who measures pays for it

        feeds, inputs = _golden(bundle)
        plan = plan_placement(
            bundle,
            settings,
            objective=objective,
            feeds=feeds,
            inputs=inputs,
            limit_s=LIMIT_S,
            compute_share=share,
        )
        try:
            save_plan(plan, path)
        except (LinesideError, OSError) as error:
            log.warning("%s: its plan is not kept: %s", bundle.manifest.identity, error)
    log.info("%s: placed as measured here: %s", bundle.manifest.identity, plan.why)
    return plan.chosen


def _golden(bundle: Bundle) -> tuple[list[dict[str, Array]], str]:
    """Returns the golden input; none where the bundle has none."""
    golden, how = bundle.manifest.golden, bundle.manifest.preprocess
    if golden is None:
        return [], ""
    tensor, _ = prepare(composed(read_png(bundle.file(golden.frame)), bundle), how)
    return [{how.input: tensor}], "the bundle's golden input"
