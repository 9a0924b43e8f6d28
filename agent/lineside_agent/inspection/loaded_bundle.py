"""A bundle with its engine, ready to inspect frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lineside_agent.config import CameraConfig, DegradeConfig, InspectConfig, engine_settings, rules_of
from lineside_agent.deployment.machine import Slot
from lineside_agent.inspection.faster_variant import FasterVariant, load_faster
from lineside_agent.inspection.staged_plan import staged_plan
from lineside_agent.inspection.variant_selection import fastest_first
from lineside_link.messages import BundleRef
from lineside_models.frame import Frame
from lineside_models.inspection import Inspection
from lineside_models.inspector import Inspector
from lineside_models.reference.reference_set import read_reference
from lineside_runtime.bundle import Bundle
from lineside_runtime.serving.candidates import variant_named
from lineside_runtime.session import Session


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle with its engine.

    Attributes:
        slot: Where it is installed.
        inspector: Inspects by the rules of ``[inspect]``.
        recipe: Name of the recipe of these rules; empty without one.
        cameras: With several cameras, the inspectors of those with rules of their own, by the camera's name.
        fast: The faster variant; ``None`` if there is none, or none is configured.
    """

    slot: Slot
    bundle: Bundle
    session: Session
    inspector: Inspector
    recipe: str = ""
    fast: FasterVariant | None = None
    cameras: Mapping[str, Inspector] = dataclasses.field(default_factory=dict)

    def inspect(self, frame: Frame, *, fast: bool = False) -> Inspection:
        """Inspects a frame, with the faster variant if ``fast`` is set and there is one."""
        by = self.fast if fast and self.fast is not None else self
        return msgspec.structs.replace(
            by.cameras.get(frame.source, by.inspector).inspect(frame),
            recipe=self.recipe,
            requested_variant=self.session.variant,
            used_variant=by.session.variant,
        )

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All that is loaded, that of the first variant first."""
        return (self.session,) if self.fast is None else (self.session, self.fast.session)

    def close(self) -> None:
        """Releases the devices."""
        for session in self.sessions:
            session.close()


def load(
    slot: Slot,
    bundle: Bundle,
    config: InspectConfig,
    *,
    recipe: str = "",
    degrade: DegradeConfig | None = None,
    cameras: Sequence[CameraConfig] = (),
) -> LoadedBundle:
    """Loads a bundle on this device.

    Args:
        config: The ``[inspect]`` table, with the recipe's settings.
        degrade: The ``[degrade]`` table: whether a faster variant is loaded as well.
        cameras: Cameras that may have rules of their own.

    Raises:
        ConfigError: The rules do not fit the bundle, it has no variant of this name, or references are missing or not
            used.
        InputNotFoundError: There is no file of a reference.
        LinesideError: Nothing here can run it.
    """
    settings = engine_settings(config)
    if config.variant:
        variant_named(bundle.manifest, config.variant, where="$.inspect.variant")
    placed = msgspec.structs.replace(settings, variant=config.variant or None)
    served = bundle if config.variant or config.objective else fastest_first(bundle, settings)
    session = Session(served, placed, plan=staged_plan(bundle, config, placed))
    try:
        references = [read_reference(Path(file)) for file in config.reference]
        inspector = Inspector(session, rules=config, references=references)
        own = {camera.name: rules_of(config, camera) for camera in cameras if camera.inspect}
        inspectors = {name: Inspector(session, rules=rules, references=references) for name, rules in own.items()}
        fast = load_faster(bundle, session, settings, config, degrade, own, references)
    except BaseException:
        session.close()
        raise
    return LoadedBundle(slot, bundle, session, inspector, recipe, fast, inspectors)


def reference(bundle: Bundle, target: str = "") -> BundleRef:
    """Returns the name under which a bundle is reported."""
    manifest = bundle.manifest
    return BundleRef(name=manifest.name, version=manifest.version, target=target, sha256=bundle.digest)
