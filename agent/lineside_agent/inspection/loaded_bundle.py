"""A bundle with its engines, ready to inspect frames."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lineside_agent.config import (
    CameraConfig,
    DegradeConfig,
    InspectConfig,
    RecipeConfig,
    check_several,
    engine_settings,
    model_inspect,
    model_rule_path,
    rule_path,
    rules_of,
)
from lineside_agent.deployment.machine import Slot
from lineside_agent.inspection.compute_share import compute_shares
from lineside_agent.inspection.faster_variant import FasterVariant, load_faster
from lineside_agent.inspection.staged_plan import staged_plan
from lineside_agent.inspection.variant_selection import SUFFIX, fastest_first, plan_on, widest_within
from lineside_link.messages import BundleRef
from lineside_models.frame import Frame
from lineside_models.golden import read_png, replay
from lineside_models.identification.expected_values import ExpectedValues
from lineside_models.identification.rules import check_lookup
from lineside_models.inspection import Inspection
from lineside_models.inspector import Inspector
from lineside_models.multi_model import MultiModelInspector, NamedInspector
from lineside_models.recommendation import Recommender
from lineside_models.reference.reference_set import is_composed_elsewhere, read_reference
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, UnsupportedModelError
from lineside_runtime.serving.candidates import variant_named
from lineside_runtime.session import Session

VARIANTS_MAX = 256
"""Characters of a record's names of variants."""


class LoadedModel(NamedTuple):
    """One model of a bundle, loaded.

    Attributes:
        name: As in the manifest's ``models``; the bundle's name where it is the only one.
        bundle: Of this model alone.
    """

    name: str
    bundle: Bundle
    session: Session


class NoInspector:
    """Takes the place of an inspector where a bundle ranks items or reads documents: a frame is a fault."""

    reads_part_id = needs_part_id = False

    @property
    def thresholds(self) -> dict[str, float]:
        """Thresholds by defect type: none."""
        return {}

    def inspect(self, frame: Frame) -> Inspection:
        """Refuses a frame.

        Raises:
            UnsupportedModelError: Always.
        """
        raise UnsupportedModelError(
            "the active bundle inspects no frames",
            expected="a bundle that inspects",
            actual=f"a frame of {frame.source}",
            action='Push another bundle to this device, or give it [camera] type = "none".',
        )

    def frame_problem(self, _frame: Frame) -> str:
        """Returns why a frame can't show a part: no rule says."""
        return ""


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle with its engines.

    Attributes:
        session: Of its first model.
        inspector: Inspects by the rules of ``[inspect]``; of a bundle that takes no images, refuses frames.
        recipe: Name of the recipe of these rules; empty without one.
        cameras: With several cameras, the inspectors of those with rules of their own, by the camera's name.
        fast: The faster variant; ``None`` if there is none, or none is configured.
        several: Its models where it has several; empty otherwise.
        recommender: Ranks items, where the bundle is a recommender's.
    """

    slot: Slot
    bundle: Bundle
    session: Session
    inspector: Inspector | MultiModelInspector | NoInspector
    recipe: str = ""
    fast: FasterVariant | None = None
    cameras: Mapping[str, Inspector] = dataclasses.field(default_factory=dict)
    several: tuple[LoadedModel, ...] = ()
    recommender: Recommender | None = None

    @property
    def models(self) -> tuple[LoadedModel, ...]:
        """Its models in the order in which they run."""
        return self.several or (LoadedModel(self.bundle.manifest.name, self.bundle, self.session),)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All that is loaded, the faster variant last."""
        usual = tuple(model.session for model in self.models)
        return usual if self.fast is None else (*usual, self.fast.session)

    @property
    def requested_device(self) -> str:
        """Processors that should run its models, such as ``cpu:0``."""
        return "+".join(model.session.requested_device for model in self.models)

    @property
    def used_device(self) -> str:
        """Engines and processors that ran them last, such as ``ort/cpu:0``."""
        return "+".join(model.session.used_device for model in self.models)

    @property
    def variant(self) -> str:
        """Variants that are to run."""
        return "+".join(model.session.variant for model in self.models)[:VARIANTS_MAX]

    def inspect(self, frame: Frame, *, fast: bool = False) -> Inspection:
        """Inspects a frame, with the faster variant if ``fast`` is set and there is one."""
        by = self.fast if fast and self.fast is not None else self
        return msgspec.structs.replace(
            by.cameras.get(frame.source, by.inspector).inspect(frame),
            recipe=self.recipe,
            requested_variant=self.variant,
            used_variant=by.session.variant if by is self.fast else self.variant,
        )

    def inspector_of(self, source: str) -> Inspector | MultiModelInspector | NoInspector:
        """Returns the inspector for the frames of a camera."""
        return self.cameras.get(source, self.inspector)

    @property
    def has_heat_map(self) -> bool:
        """Whether it shows where a part differs from good ones."""
        return not self.bundle.manifest.several and self.bundle.manifest.task == "anomaly"

    @property
    def has_golden(self) -> bool:
        """Whether each model has a golden input."""
        return all(model.bundle.manifest.golden is not None for model in self.models)

    def replay(self) -> str:
        """Runs the golden input of each model, and returns where they ran.

        Raises:
            LinesideError: As `lineside_models.golden.replay`.
        """
        return "+".join(replay(model.session, model.bundle).used_device for model in self.models)

    def inspect_golden(self) -> None:
        """Inspects the golden frame of each model without the line's rules, so that its decoder too has run once.

        Raises:
            LinesideError: As `Inspector.inspect`.
        """
        for model in self.models:
            manifest = model.bundle.manifest
            if manifest.preprocess.text and manifest.golden is not None:
                # Only who reads documents pays for it.
                from lineside_models.nlp.extraction.contract_parser import open_extractor

                text = model.bundle.file(manifest.golden.frame).read_text(encoding="utf-8", errors="replace")
                open_extractor(model.session).read(text)
            if manifest.preprocess.rows or manifest.preprocess.text:
                continue
            if manifest.golden is not None and not is_composed_elsewhere(manifest.preprocess):
                Inspector(model.session).inspect(Frame(image=read_png(model.bundle.file(manifest.golden.frame))))

    def models_status(self) -> list[dict[str, Any]]:
        """What ``status.json`` says of each model: devices; of several also time for a part and share of that time."""
        spent = self.inspector.service_ms if isinstance(self.inspector, MultiModelInspector) else {}
        total = sum(spent.values())
        return [
            {
                "name": model.name,
                "bundle": model.bundle.manifest.identity,
                "requested_device": model.session.requested_device,
                "used_device": model.session.used_device,
                "service_ms": round(spent[model.name], 3) if model.name in spent else None,
                "compute_share": round(spent.get(model.name, 0.0) / total, 3) if total else None,
            }
            for model in self.models
        ]

    def close(self) -> None:
        """Releases the devices."""
        for session in self.sessions:
            session.close()


def load(
    slot: Slot,
    bundle: Bundle,
    config: InspectConfig,
    *,
    recipe: RecipeConfig | None = None,
    degrade: DegradeConfig | None = None,
    cameras: Sequence[CameraConfig] = (),
    running: LoadedBundle | None = None,
    measured: Path | None = None,
) -> LoadedBundle:
    """Loads a bundle on this device.

    Args:
        config: The ``[inspect]`` table, with the recipe's settings.
        recipe: Whose settings these are; named in errors and in results.
        degrade: The ``[degrade]`` table: whether a faster variant is loaded as well.
        cameras: Cameras that may have rules of their own.
        running: What runs now: of the same bundle of several models, its measured times give the shares of the compute.
        measured: Folder that keeps what is measured here of the bundle; the one in which its folder is if not given.

    Raises:
        ConfigError: The rules do not fit the bundle, it has no variant of this name, or references are missing or not
            used.
        MissingExtraError: What reads the marks of a rule is not installed.
        InputNotFoundError: There is no file of a reference.
        LinesideError: Nothing here can run it.
    """
    beside = (measured or bundle.path.parent) / bundle.path.name
    name = "" if recipe is None else recipe.name
    if bundle.manifest.several:
        return _load_several(slot, bundle, config, recipe, cameras, _times_of(running, bundle), beside)
    settings = _settings_of(config)
    place, where = beside.with_name(beside.name + SUFFIX), functools.partial(rule_path, recipe=recipe)
    session = _open_session(bundle, config, settings, place=place, where=where)
    if bundle.manifest.preprocess.rows:
        return LoadedBundle(slot, bundle, session, NoInspector(), name, recommender=Recommender(session))
    if bundle.manifest.preprocess.text:
        return LoadedBundle(slot, bundle, session, NoInspector(), name)
    try:
        references, expected = [read_reference(Path(file)) for file in config.reference], _expected_of(config)
        own = {camera.name: rules_of(config, camera) for camera in cameras if camera.inspect}

        def inspector_of(opened: Session, rules: InspectConfig, camera: CameraConfig | None = None) -> Inspector:
            own_path = functools.partial(where, camera=camera)
            return Inspector(opened, rules=rules, references=references, expected=expected, where=own_path)

        inspector = inspector_of(session, config)
        inspectors = {
            camera.name: inspector_of(session, own[camera.name], camera) for camera in cameras if camera.name in own
        }
        fast = load_faster(bundle, session, settings, config, degrade, own, inspector_of)
    except BaseException:
        session.close()
        raise
    return LoadedBundle(slot, bundle, session, inspector, name, fast, inspectors)


def _settings_of(config: InspectConfig) -> Config:
    """Returns the settings of a session that runs a call of each worker at the same time."""
    return msgspec.structs.replace(engine_settings(config), submit_workers=config.workers)


def _open_session(
    bundle: Bundle,
    config: InspectConfig,
    settings: Config,
    *,
    share: float = 1.0,
    place: Path,
    where: Callable[[str], str],
) -> Session:
    if config.variant:
        variant_named(bundle.manifest, config.variant, where=where("variant"))
        settings = msgspec.structs.replace(settings, variant=config.variant)
    plan = staged_plan(bundle, config, settings, place.parent, share=share)
    if not (config.variant or config.objective):
        bundle, plan = fastest_first(bundle, settings, place)
        if config.max_ms is not None:
            device = plan.devices[0] if plan.devices else ""
            bundle = widest_within(bundle, settings, config.max_ms, device=device)
            plan = plan_on(device, bundle.manifest.variants[0].name, settings) if device else plan
    return Session(bundle, settings, compute_share=share, plan=plan)


def _load_several(
    slot: Slot,
    bundle: Bundle,
    config: InspectConfig,
    recipe: RecipeConfig | None,
    cameras: Sequence[CameraConfig],
    known_ms: Sequence[float],
    beside: Path,
) -> LoadedBundle:
    """Loads a bundle of several models; it has no faster variant."""
    check_several(config, bundle.manifest, recipe=recipe)
    if special := [camera.name for camera in cameras if camera.inspect]:
        raise ConfigError(
            f"$.camera[{special[0]}].inspect is for one model, and {bundle.manifest.identity} has several",
            action="Give the rules in [inspect.models.NAME]; they hold for all cameras.",
        )
    parts = [(entry, bundle.open_model(entry), model_inspect(config, entry)) for entry in bundle.manifest.several]
    shares = compute_shares([(opened, engine_settings(own)) for _, opened, own in parts], known_ms)
    loaded: list[LoadedModel] = []
    inspectors: list[NamedInspector] = []
    try:
        for (entry, opened, own), share in zip(parts, shares, strict=True):
            where = functools.partial(model_rule_path, inspect=config, model=entry, recipe=recipe)
            place = beside.with_name(f"{beside.name}.{entry.name}{SUFFIX}")
            session = _open_session(opened, own, _settings_of(own), share=share, place=place, where=where)
            loaded.append(LoadedModel(entry.name, opened, session))
            check_lookup(own.read, has_values=bool(own.expected_values), where=where)
            references = [read_reference(Path(file)) for file in own.reference]
            inspector = Inspector(session, rules=own, references=references, expected=_expected_of(own), where=where)
            inspectors.append(NamedInspector(entry, inspector))
    except BaseException:
        for model in loaded:
            model.session.close()
        raise
    several = MultiModelInspector(bundle.manifest.identity, inspectors)
    name = "" if recipe is None else recipe.name
    return LoadedBundle(slot, bundle, loaded[0].session, several, name, several=tuple(loaded))


def _times_of(running: LoadedBundle | None, bundle: Bundle) -> list[float]:
    """Returns the measured time of each model for one part; empty before each has run once on a part."""
    if running is None or running.bundle.digest != bundle.digest:
        return []
    if not isinstance(running.inspector, MultiModelInspector):
        return []
    spent = running.inspector.service_ms
    names = [entry.name for entry in bundle.manifest.several]
    return [spent[name] for name in names] if spent.keys() >= set(names) else []


def _expected_of(config: InspectConfig) -> ExpectedValues | None:
    return ExpectedValues(config.expected_values) if config.expected_values else None


def reference(bundle: Bundle, target: str = "") -> BundleRef:
    """Returns the name under which a bundle is reported."""
    manifest = bundle.manifest
    return BundleRef(name=manifest.name, version=manifest.version, target=target, sha256=bundle.digest)
