"""`Loaded`: a bundle with its engine, ready to judge frames."""

from __future__ import annotations

import dataclasses

import msgspec

from lineside_agent.config import InspectConfig
from lineside_agent.fastest import fastest_first
from lineside_agent.updates import Slot
from lineside_link.messages import BundleRef
from lineside_models.frame import Frame
from lineside_models.inspection import Inspection
from lineside_models.inspector import Inspector
from lineside_runtime.bundle import Bundle
from lineside_runtime.session import Config, Session


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded bundle.

    Attributes:
        slot: Where it lies.
        bundle: What it is.
        session: Its engine.
        inspector: Its judgement, with the ``[inspect]`` table's rules.
        recipe: Name of the recipe whose rules these are; empty without one.
    """

    slot: Slot
    bundle: Bundle
    session: Session
    inspector: Inspector
    recipe: str = ""

    def inspect(self, frame: Frame) -> Inspection:
        """Judges a frame.

        Args:
            frame: Any.

        Raises:
            LinesideError: No device could run it.
        """
        inspection = self.inspector.inspect(frame)
        return msgspec.structs.replace(inspection, recipe=self.recipe) if self.recipe else inspection

    def close(self) -> None:
        """Gives its device back."""
        self.session.close()


def load(slot: Slot, bundle: Bundle, config: InspectConfig, *, recipe: str = "") -> Loaded:
    """Loads a bundle on this device.

    Args:
        slot: Where it lies.
        bundle: What it is.
        config: The ``[inspect]`` table.
        recipe: Name of the recipe that is laid over it.

    Raises:
        ConfigError: The table's rules don't fit the bundle.
        LinesideError: Nothing here can run it.
    """
    settings = Config(threads=config.threads, isolate=config.isolate, isolated_timeout_s=config.engine_timeout_s)
    session = Session(fastest_first(bundle, settings), settings)
    try:
        inspector = Inspector(session, rules=config)
    except BaseException:
        session.close()
        raise
    return Loaded(slot, bundle, session, inspector, recipe)


def reference(bundle: Bundle, target: str = "") -> BundleRef:
    """Returns the name under which a bundle is reported."""
    manifest = bundle.manifest
    return BundleRef(name=manifest.name, version=manifest.version, target=target, sha256=bundle.digest)
