"""The bundle's faster variant, loaded beside the one that is used normally.

The configuration names it, or it is found by timing all variants here. All variants of a bundle have the same input, so
none is faster by a smaller image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from lineside_agent.config import DegradeConfig, InspectConfig
from lineside_agent.inspection.variant_selection import TimedVariant, only, plan_on, time_variant
from lineside_models.inspector import Inspector
from lineside_runtime.bundle import Bundle, Variant
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, LinesideError
from lineside_runtime.serving.candidates import variant_named
from lineside_runtime.session import Session

log = logging.getLogger("lineside.agent")

GAIN = 0.8
"""A variant that needs more than this share of the regular one's time is not worth its memory."""


class FasterVariant(NamedTuple):
    """The faster variant, loaded.

    Attributes:
        usual_ms: Time of a call of the regular variant here; 0 if it was not timed.
        cameras: As in `lineside_agent.inspection.loaded_bundle.LoadedBundle`.
    """

    session: Session
    inspector: Inspector
    usual_ms: float
    cameras: Mapping[str, Inspector]


def load_faster(
    bundle: Bundle,
    usual: Session,
    settings: Config,
    rules: InspectConfig,
    degrade: DegradeConfig | None,
    by_camera: Mapping[str, InspectConfig],
    inspector_of: Callable[[Session, InspectConfig], Inspector],
) -> FasterVariant | None:
    """Loads the faster variant; ``None`` if none is configured or the bundle has none.

    Args:
        inspector_of: Makes an inspector for a session and its rules.
    """
    if degrade is None or "variant" not in degrade.steps:
        return None
    try:
        device = _undeclared_device(usual, bundle)
        found = _choose(bundle, usual.variant, settings, degrade.variant, device)
        if found is None:
            return None
        variant, usual_ms = found
        plan = plan_on(device, variant.name, settings) if device else None
        session = Session(only(bundle, variant), settings, plan=plan)
    except ConfigError:
        raise
    except LinesideError as error:
        log.error("%s has no faster variant that runs here: %s", bundle.manifest.identity, error)
        return None
    try:
        session.warm_up()
        cameras = {name: inspector_of(session, own) for name, own in by_camera.items()}
        return FasterVariant(session, inspector_of(session, rules), usual_ms, cameras)
    except BaseException:
        session.close()
        raise


def _undeclared_device(usual: Session, bundle: Bundle) -> str:
    """Returns the device of the regular variant if it is of a kind that the variant is not for; else empty."""
    plan = usual.plan
    declared = variant_named(bundle.manifest, usual.variant).device_kinds
    return "" if plan.kind != "device" or set(plan.device_kinds) <= set(declared) else plan.devices[0]


def _choose(bundle: Bundle, usual: str, settings: Config, wanted: str, device: str) -> tuple[Variant, float] | None:
    manifest = bundle.manifest
    if wanted:
        variant = variant_named(manifest, wanted, where="$.degrade.variant")
        return None if wanted == usual else (variant, 0.0)
    if len(manifest.variants) < 2:
        return None
    timed: dict[str, TimedVariant] = {
        variant.name: time_variant(bundle, variant, settings, device=device) for variant in manifest.variants
    }
    usual_ms = timed[usual].ms
    able: dict[str, float] = {name: one.ms for name, one in timed.items() if one.ms is not None and name != usual}
    best = min(able, key=able.__getitem__, default=None)
    if usual_ms is None or best is None or able[best] > GAIN * usual_ms:
        return None
    log.info("%s: %s needs %.2f ms here, %s %.2f ms", manifest.identity, usual, usual_ms, best, able[best])
    return next(variant for variant in manifest.variants if variant.name == best), usual_ms
