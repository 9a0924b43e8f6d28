"""A bundle as an artifact: slots, link, engine; and the recipes, which change what runs between two frames."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lineside_agent.config import CameraConfig, DegradeConfig, InspectConfig, RecipeConfig
from lineside_agent.deployment.bundle_trial import try_bundle
from lineside_agent.deployment.events import Started
from lineside_agent.deployment.machine import FACTORY, BundleMachine, Slot
from lineside_agent.deployment.runner import FOREIGN, Artifact, ShouldStop
from lineside_agent.deployment.slots import Slots
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import LoadedBundle, load, reference
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.storage.state_file import read_state
from lineside_link.messages import BundleRef
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import EngineError, LinesideError, StagingError
from lineside_runtime.progress import CountListener

log = logging.getLogger("lineside.update")

STATE_NAME = "update.json"
FetchBundle = Callable[[BundleRef, Path, CountListener, ShouldStop], None]
"""Fetches a bundle's files into a folder: `fetch.Fetcher.fetch`."""

Gate = Callable[[BundleMachine, bool], str]
"""Returns what must be waited for before a fetch (true) or a change (false); empty for nothing."""

ReportBundle = Callable[[BundleMachine, float], None]
"""Takes the machine, and the share of its fetch that is done."""


class BundleArtifact(Artifact[BundleMachine]):
    """The bundle that the pipeline uses.

    Args:
        folder: Holds ``update.json``.
        inspect: Returns the ``[inspect]`` table that holds, without the recipe.
        observe: Takes each machine after it was written to disk and before it is acted upon.
        ignored: Takes why the desired state that came last is ignored; empty if it is not.
        recipes: What the line may change between; carried out here, since what runs is owned here.
        degrade: The ``[degrade]`` table: whether a faster variant is loaded beside each bundle.
        cameras: Of several cameras, those that may have rules of their own.
        prepare: Applies the line settings of the chosen recipe, before its first part.
    """

    log = log

    def __init__(
        self,
        folder: Path,
        *,
        slots: Slots,
        active: ActiveBundle,
        inspect: Callable[[], InspectConfig],
        fetch: FetchBundle,
        report: ReportBundle,
        stop: threading.Event,
        observe: Callable[[BundleMachine], None] = lambda _: None,
        ignored: Callable[[str], None] = lambda _: None,
        gate: Gate = lambda *_: "",
        recipes: Recipes | None = None,
        prepare: Callable[[], None] = lambda: None,
        degrade: DegradeConfig | None = None,
        cameras: Sequence[CameraConfig] = (),
    ) -> None:
        self.path = folder / STATE_NAME
        self.active = active
        self.recipes = recipes or Recipes(folder)
        self._slots = slots
        self._table = inspect
        self._fetch = fetch
        self._report, self._observe = report, observe
        self._stop = stop
        self._ignored = ignored
        self._gate = gate
        self._prepare = prepare
        self._degrade = degrade
        self._cameras = tuple(cameras)
        self._installed_slot: Slot | None = None
        self._staged: LoadedBundle | None = None
        self._kept: LoadedBundle | None = None
        self._ignored_reason = ""
        self._fetching = (0, 0.0)

    @property
    def inspect(self) -> InspectConfig:
        """The ``[inspect]`` table that holds, with the recipe."""
        return self.recipes.apply_to(self._table())

    def load(self, slot: Slot, bundle: Bundle, inspect: InspectConfig) -> LoadedBundle:
        """Loads a bundle beside what runs."""
        is_in_slot = slot != FACTORY and bundle.path == self._slots.bundle_path(slot)
        return load(
            slot,
            bundle,
            inspect,
            recipe=self.recipes.current,
            degrade=self._degrade,
            cameras=self._cameras,
            running=self.active.loaded,
            measured=None if is_in_slot else self.path.parent,  # it may lie where this process may not write
        )

    def watch(self, inspect: InspectConfig) -> bool:
        """Watches the first real frames; false if the agent stops meanwhile.

        Raises:
            EngineError: A frame could not be inspected.
        """
        until_s = time.monotonic() + inspect.health_timeout_s
        while not self._stop.is_set():
            left_s = until_s - time.monotonic()
            broken, enough = self.active.watch(inspect.health_frames, min(0.2, max(0.0, left_s)))
            if broken:
                raise EngineError(f"a frame could not be inspected: {broken}", action="What ran before runs again.")
            if enough or left_s <= 0:
                return True
        return False

    # -- the start and the way back --------------------------------------------------------------------------------

    def read(self) -> BundleMachine:
        existed = self.path.exists()
        machine = read_state(self.path, BundleMachine)
        return machine or (self._recovered() if existed else BundleMachine())

    def _recovered(self) -> BundleMachine:
        """What the link ``current`` knows, where the state file is damaged."""
        slot = self._slots.current()
        if slot is None or slot == FACTORY:
            return BundleMachine()
        try:
            installed = reference(self._slots.open(slot))
        except LinesideError as error:
            log.error("slot %s can't be used: %s", slot, error)
            return BundleMachine()
        return BundleMachine(state="active", installed=installed, installed_slot=slot)

    def started(self, machine: BundleMachine) -> Started:
        del machine
        try:
            return Started(reference(self._slots.open(FACTORY)), FACTORY)
        except LinesideError as error:
            if self._slots.has_factory:
                self.active.problem = str(error)
                log.error("the bundle that agent.toml names can't be used: %s", self.active.problem)
            return Started()

    def restore(self, slot: str | None) -> None:
        """Makes a slot the one that runs; what is still in memory is not read again."""
        running, wanted = self.active.loaded, _checked(slot)
        if self.recipes.bundle is not None:
            fresh = running or self._load_recipe_at_start()
        elif wanted is None:
            fresh = None
        elif running is not None and running.slot == wanted:
            fresh = running
        elif self._kept is not None and self._kept.slot == wanted:
            fresh = self._kept
        else:
            fresh = self.load(wanted, self._slots.open(wanted), self.inspect)
        if wanted is not None:
            self._point_to(wanted)
        if fresh is not running:
            old = self.active.swap(fresh)
            if old is not None and old is not self._staged:
                old.close()
        self._kept = None

    def _point_to(self, slot: Slot) -> None:
        """The link follows what runs; ``update.json`` is what counts, so a full disk is no reason to stop."""
        try:
            if self._slots.current() != slot:
                self._slots.make_current(slot)
        except OSError as error:
            log.error("the link to slot %s can't be set: %s", slot, error)

    # -- one attempt -----------------------------------------------------------------------------------------------

    def observe(self, machine: BundleMachine) -> None:
        self._installed_slot = machine.installed_slot
        self._observe(machine)

    def report(self, machine: BundleMachine) -> None:
        self._report(machine, self._progress(machine))

    def ignored(self, reason: str) -> None:
        if reason:
            log.warning("a desired state is ignored: %s", reason)
        if reason != self._ignored_reason:
            self._ignored_reason = reason
            self._ignored(reason)

    def reason_to_wait(self, machine: BundleMachine, *, fetching: bool) -> str:
        if not fetching and self.recipes.bundle is not None:
            return f"recipe {self.recipes.name} runs a bundle of its own; the installed one is updated after it"
        return self._gate(machine, fetching)

    def fetch(self, machine: BundleMachine, should_stop: ShouldStop) -> None:
        if machine.wanted is None or machine.slot is None:
            return

        def note_progress(done: int, total: int) -> None:
            share, known = done / total if total else 1.0, self._progress(machine)
            if share - known >= 0.1 or share == 1.0 != known:
                self._fetching = (machine.attempt, share)
                self._report(machine, share)

        folder = self._slots.begin(machine.slot, machine.wanted.sha256)
        self._fetch(machine.wanted, folder, note_progress, should_stop)

    def _progress(self, machine: BundleMachine) -> float:
        attempt, share = self._fetching
        return share if (attempt, "fetching") == (machine.attempt, machine.state) else 0.0

    def verify(self, machine: BundleMachine) -> None:
        if machine.wanted is not None and machine.slot is not None:
            self._slots.finish(machine.slot, machine.wanted.sha256)

    def stage(self, machine: BundleMachine) -> None:
        """Tries the bundle in a process of its own, loads it beside the one that runs, and replays its golden input."""
        self._close_staged()
        if machine.slot is None:
            return
        bundle = self._slots.open(machine.slot)
        try_bundle(bundle, self.inspect, self._degrade, self._stop.is_set)
        self._staged = self.load(machine.slot, bundle, self.inspect)
        used_device = self._staged.replay()
        self._staged.inspect_golden()
        log.info("%s: golden input replayed on %s", bundle.manifest.identity, used_device)

    def switch(self, machine: BundleMachine) -> None:
        if self._staged is None or self._staged.slot != machine.slot:
            raise StagingError(f"nothing is staged in slot {machine.slot}")
        self._slots.make_current(self._staged.slot)
        self._kept = self.active.swap(self._staged)

    def check_health(self, machine: BundleMachine) -> bool:
        del machine
        return self.watch(self.inspect)

    def rest(self, machine: BundleMachine) -> None:
        del machine
        self._close_staged()
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def close(self) -> None:
        for loaded in {id(held): held for held in (self._staged, self._kept) if held is not None}.values():
            if loaded is not self.active.loaded:
                loaded.close()

    def _close_staged(self) -> None:
        if self._staged is not None and self._staged is not self.active.loaded:
            self._staged.close()
        self._staged = None

    # -- recipes ---------------------------------------------------------------------------------------------------

    def between_steps(self, machine: BundleMachine) -> None:
        """Changes over to the recipe that is asked for, if one is."""
        del machine
        if not self.recipes.is_requested:
            return
        request, started_s = self.recipes.begin(), time.monotonic()
        if request is None:
            return
        before = self.recipes.current
        try:
            self.recipes.choose(request.recipe)
            self._swap_recipe()
        except (LinesideError, *FOREIGN) as error:
            self._go_back(before)
            self.recipes.failed(request, error)
        else:
            self.recipes.done(request, started_s)

    def _load_recipe_at_start(self) -> LoadedBundle | None:
        """The bundle that the chosen recipe brings; that it can't run says nothing of what is installed."""
        try:
            return self._load_recipe()
        except (LinesideError, *FOREIGN) as error:
            self.recipes.failed_at_start(error)
            return None

    def _load_recipe(self) -> LoadedBundle | None:
        """Loads what the chosen recipe runs; ``None`` if nothing is installed and it brings no bundle."""
        own, slot = self.recipes.bundle, self._installed_slot
        if own is None and slot is None:
            return None
        bundle = self._slots.open(slot or FACTORY) if own is None else open_bundle(own)
        fresh = self.load(slot or FACTORY, bundle, self.inspect)
        try:
            if own is not None and fresh.has_golden:
                fresh.replay()
        except BaseException:
            fresh.close()
            raise
        return fresh

    def _swap_recipe(self) -> None:
        fresh = self._load_recipe()
        try:
            self._prepare()
        except BaseException:
            if fresh is not None:
                fresh.close()
            raise
        old = self.active.swap(fresh)
        if old is not None and old is not self._kept:
            old.close()

    def _go_back(self, before: RecipeConfig | None) -> None:
        try:
            self.recipes.choose(before)
            self._prepare()
        except (LinesideError, *FOREIGN) as error:
            log.error("going back to recipe %s: %s", self.recipes.name, error)


def _checked(slot: str | None) -> Slot | None:
    """Returns a machine's slot as one of a bundle's."""
    known: dict[str | None, Slot] = {"a": "a", "b": "b", FACTORY: FACTORY}
    return known.get(slot)
