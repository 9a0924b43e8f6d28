"""The I/O of a bundle's deployment: files, link, engine. The decisions are in `machine`.

Each step is written down before it is acted upon, in ``update.json``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lineside_agent.config import AgentConfig, CameraConfig, DegradeConfig, InspectConfig, RecipeConfig, StoreConfig
from lineside_agent.deployment import machine
from lineside_agent.deployment.configuration import Configuration
from lineside_agent.deployment.desired_state import RESTING, Done, Look, LookAgain
from lineside_agent.deployment.machine import Action, BundleMachine, Event, LoadFailed, Slot, Started, step
from lineside_agent.deployment.runner import FOREIGN, LOOK_S, DeploymentRunner, ShouldStop, as_problem
from lineside_agent.deployment.slots import Slots, missing_bundle
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import LoadedBundle, load, reference
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.storage.state_file import read_state
from lineside_link.messages import BundleRef
from lineside_models.frame import Frame
from lineside_models.golden import read_png, replay
from lineside_models.inspector import Inspector
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import BrokerError, EngineError, LinesideError, StagingError

log = logging.getLogger("lineside.update")

STATE_NAME = "update.json"
Progress = Callable[[int, int], None]
Bring = Callable[[BundleRef, Path, Progress, ShouldStop], None]
"""Brings a bundle's files into a folder: `fetch.Fetcher.bring`."""

Gate = Callable[[BundleMachine, bool], str]
"""Says what the machine must wait for before it fetches (true) or changes over (false); empty for nothing."""

Observe = Callable[[BundleMachine, float], None]
"""Takes the machine after it was written down and before it is acted upon, and the fetched share."""


class BundleRunner(DeploymentRunner[BundleMachine, Event, Action]):
    """Runs the update machine in a thread of its own.

    Args:
        folder: Holds ``update.json``.
        slots: Where bundles lie.
        active: What the pipeline uses.
        inspect: The ``[inspect]`` table, where there is no ``configuration``.
        configuration: What holds: ``agent.toml``, and what the hub has set over it.
        apply_store: Takes the ``[store]`` table of another configuration.
        bring: How bundles come here; ``None`` for an agent without a link.
        observe: Told of every step.
        stop: Ends the thread.
        gate: Holds fetch and changeover back; ``None`` never does.
        recipes: What the line may change between; carried out here, since here is who owns what runs.
        degrade: The ``[degrade]`` table: whether a faster variant is loaded beside each bundle.
        cameras: Of several cameras, those that may have rules of their own.
        prepare: Makes the line stand and its cameras see as the chosen recipe says, before its first part.
    """

    log = log

    def __init__(
        self,
        folder: Path,
        *,
        slots: Slots,
        active: ActiveBundle,
        inspect: InspectConfig,
        bring: Bring | None,
        observe: Observe,
        stop: threading.Event,
        configuration: Configuration | None = None,
        apply_store: Callable[[StoreConfig], None] | None = None,
        gate: Gate | None = None,
        recipes: Recipes | None = None,
        prepare: Callable[[], None] = lambda: None,
        degrade: DegradeConfig | None = None,
        cameras: Sequence[CameraConfig] = (),
    ) -> None:
        self._slots = slots
        self._active = active
        self._local_inspect = inspect
        self._configuration = configuration
        self._apply_store = apply_store
        self._bring = bring
        self._observe = observe
        self._gate = gate
        self._recipes = recipes or Recipes(folder)
        self._prepare = prepare
        self._degrade = degrade
        self._cameras = tuple(cameras)
        self._staged: LoadedBundle | None = None
        self._kept: LoadedBundle | None = None
        self._progress = 0.0
        path = folder / STATE_NAME
        super().__init__(path, self._read(path), step=step, stop=stop)

    @property
    def _table(self) -> InspectConfig:
        """The ``[inspect]`` table that holds, without the recipe."""
        return self._local_inspect if self._configuration is None else self._configuration.effective.inspect

    @property
    def _inspect(self) -> InspectConfig:
        return self._recipes.apply_to(self._table)

    def kick(self) -> None:
        """Says that the link stands anew: a pause before the next fetch ends at once."""
        if self._configuration is not None:
            self._configuration.kick()
        super().kick()

    def wake(self) -> None:
        """Says that another recipe is asked for."""
        self._events.put(None)

    def run(self) -> None:
        """Runs in the caller's thread until stopped."""
        self._step(Started(self._factory()))
        if self._recipes.bundle is not None and not any(
            isinstance(action, machine.LoadBundle) for action in self._todo
        ):
            self._active.swap(self._own_at_start())  # nothing is installed, and nothing need be
        while not self._stop.is_set():
            self._take_events()
            self._change_over()
            if self._todo:
                self._act(self._todo.popleft())
            else:
                if self._configuration is not None and self.machine.state in RESTING:
                    self._configuration.follow(self.machine.wish, self._reconfigure, self._must_stop)
                self._wait(LOOK_S)
        for loaded in {id(held): held for held in (self._staged, self._kept) if held is not None}.values():
            if loaded is not self._active.loaded:
                loaded.close()

    # -- around a step -----------------------------------------------------------------------------------------

    def _changed(self, before: BundleMachine) -> None:
        if self.machine.state != "fetching" or self.machine.attempt != before.attempt:
            self._progress = 0.0
        self._tell()

    def _tell(self) -> None:
        self._observe(self.machine, self._progress)

    def _failed(self, action: Action, error: Exception) -> Event:
        if isinstance(action, machine.LoadBundle):
            return LoadFailed(action.slot or "a", as_problem(error))
        return super()._failed(action, error)

    def _acted(self) -> None:
        if not self._todo and self.machine.state in RESTING:
            self._tidy()

    def _meanwhile(self) -> None:
        self._change_over()

    # -- the actions -------------------------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> Event | None:
        if isinstance(action, LookAgain):
            return Look()
        if isinstance(action, machine.LoadBundle):
            self._load(action.slot)
            return None
        if isinstance(action, machine.Fetch):
            return self._fetch(action)
        if isinstance(action, machine.Verify):
            self._slots.finish(action.slot, action.bundle.sha256)
            if not self._passes(action, fetching=False):
                return None
        elif isinstance(action, machine.Stage):
            self._stage(action.slot)
        elif isinstance(action, machine.Switch):
            self._switch(action.slot)
        else:
            return self._check_health(action.attempt)
        return Done(action.attempt)

    def _fetch(self, action: machine.Fetch) -> Event | None:
        if not self._pauses(action, action.pause_s, at_once=action._replace(pause_s=0.0)):
            return None
        if self._bring is None:
            raise BrokerError("no link to fetch a bundle over", action="Add [link] to agent.toml.")
        if not self._passes(action, fetching=True):
            return None
        folder = self._slots.begin(action.slot, action.bundle.sha256)
        self._bring(action.bundle, folder, self._note_progress, self._must_stop)
        return Done(action.attempt)

    def _reason_to_wait(self, *, fetching: bool) -> str:
        if not fetching and self._recipes.bundle is not None:
            return f"recipe {self._recipes.name} runs a bundle of its own; the installed one is updated after it"
        return "" if self._gate is None else self._gate(self.machine, fetching)

    def _note_progress(self, done: int, total: int) -> None:
        share = done / total if total else 1.0
        if share - self._progress >= 0.1 or share == 1.0 != self._progress:
            self._progress = share
            self._tell()

    def _stage(self, slot: Slot) -> None:
        self._close_staged()
        bundle = self._slots.open(slot)
        self._staged = self._open(slot, bundle, self._inspect)
        report = replay(self._staged.session, bundle)
        if bundle.manifest.golden is not None:  # the decoder too must get through a frame before the line relies on it
            frame = Frame(image=read_png(bundle.file(bundle.manifest.golden.frame)))
            Inspector(self._staged.session).inspect(frame)  # without the line's regions, which fit its camera's frames
        log.info("%s: golden input replayed on %s", bundle.manifest.identity, report.used_device)

    def _switch(self, slot: Slot) -> None:
        if self._staged is None or self._staged.slot != slot:
            raise StagingError(f"nothing is staged in slot {slot}")
        self._slots.make_current(slot)
        self._kept = self._active.swap(self._staged)

    def _check_health(self, attempt: int) -> Event | None:
        return Done(attempt) if self._watch(self._inspect) else None

    def _reconfigure(self, config: AgentConfig) -> None:
        """Makes the agent run by another configuration: what runs is loaded anew beside itself, and back if it fails.

        Raises:
            LinesideError: It can't run so; nothing has changed.
        """
        running, wanted = self._active.loaded, self._recipes.apply_to(config.inspect)
        if running is None or wanted == self._inspect:
            self._use_store(config.store)
            return
        fresh = self._open(running.slot, running.bundle, wanted)
        try:
            replay(fresh.session, running.bundle)
            self._active.swap(fresh)
            self._watch(wanted)
        except BaseException:
            if self._active.loaded is fresh:
                self._active.swap(running)
            fresh.close()
            raise
        running.close()
        self._use_store(config.store)

    def _use_store(self, store: StoreConfig) -> None:
        if self._apply_store is not None:
            self._apply_store(store)

    def _watch(self, inspect: InspectConfig) -> bool:
        """Watches the first real frames; false if the agent stops meanwhile."""
        until_s = time.monotonic() + inspect.health_timeout_s
        while not self._stop.is_set():
            left_s = until_s - time.monotonic()
            broken, enough = self._active.watch(inspect.health_frames, min(0.2, max(0.0, left_s)))
            if broken:
                raise EngineError(f"a frame could not be inspected: {broken}", action="What ran before runs again.")
            if enough or left_s <= 0:
                return True
        return False

    def _load(self, slot: Slot | None) -> None:
        """Makes a slot the one that runs; what is still in memory is not read again."""
        running = self._active.loaded
        if self._recipes.bundle is not None:
            fresh = running or self._own_at_start()
        elif slot is None:
            fresh = None
        elif running is not None and running.slot == slot:
            fresh = running
        elif self._kept is not None and self._kept.slot == slot:
            fresh = self._kept
        else:
            fresh = self._open(slot, self._slots.open(slot), self._inspect)
        if slot is not None:
            self._point_to(slot)
        if fresh is not running:
            old = self._active.swap(fresh)
            if old is not None and old is not self._staged:
                old.close()
        self._kept = None

    # -- recipes -----------------------------------------------------------------------------------------------

    def _own_at_start(self) -> LoadedBundle | None:
        """The bundle that the chosen recipe brings; that it can't run says nothing of what is installed."""
        try:
            return self._load_recipe()
        except (LinesideError, *FOREIGN) as error:
            self._recipes.failed_at_start(error)
            return None

    def _load_recipe(self) -> LoadedBundle | None:
        """Loads what the chosen recipe runs; ``None`` if nothing is installed and it brings no bundle."""
        own, slot = self._recipes.bundle, self.machine.installed_slot
        if own is None and slot is None:
            return None
        bundle = self._slots.open(slot or "factory") if own is None else open_bundle(own)
        fresh = self._open(slot or "factory", bundle, self._inspect)
        try:
            if own is not None and bundle.manifest.golden is not None:
                replay(fresh.session, bundle)
        except BaseException:
            fresh.close()
            raise
        return fresh

    def _change_over(self) -> None:
        """Goes over to the recipe that is asked for, if one is; an update that is being tried ends first."""
        if self.machine.state in machine.RISKY or not self._recipes.is_requested:
            return
        wish, started_s = self._recipes.begin(), time.monotonic()
        if wish is None:
            return
        before = self._recipes.current
        try:
            self._recipes.choose(wish.recipe)
            self._swap_recipe()
        except (LinesideError, *FOREIGN) as error:
            self._go_back(before)
            self._recipes.failed(wish, error)
        else:
            self._recipes.done(wish, started_s)

    def _swap_recipe(self) -> None:
        fresh = self._load_recipe()
        try:
            self._prepare()
        except BaseException:
            if fresh is not None:
                fresh.close()
            raise
        old = self._active.swap(fresh)
        if old is not None and old is not self._kept:
            old.close()

    def _go_back(self, before: RecipeConfig | None) -> None:
        try:
            self._recipes.choose(before)
            self._prepare()
        except (LinesideError, *FOREIGN) as error:
            log.error("going back to recipe %s: %s", self._recipes.name, error)

    # -- what an action needs ----------------------------------------------------------------------------------

    def _open(self, slot: Slot, bundle: Bundle, inspect: InspectConfig) -> LoadedBundle:
        return load(slot, bundle, inspect, recipe=self._recipes.name, degrade=self._degrade, cameras=self._cameras)

    def _point_to(self, slot: Slot) -> None:
        """The link follows what runs; ``update.json`` is what counts, so a full disk is no reason to stop."""
        try:
            if self._slots.current() != slot:
                self._slots.make_current(slot)
        except OSError as error:
            log.error("the link to slot %s can't be set: %s", slot, error)

    def _tidy(self) -> None:
        """At rest nothing is held but what runs."""
        self._close_staged()
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _close_staged(self) -> None:
        if self._staged is not None and self._staged is not self._active.loaded:
            self._staged.close()
        self._staged = None

    # -- the start ---------------------------------------------------------------------------------------------

    def _factory(self) -> BundleRef | None:
        try:
            return reference(self._slots.open("factory"))
        except LinesideError as error:
            if self._slots.has_factory:
                why = missing_bundle(self._slots.bundle_path("factory")) or error
                log.error("the bundle that agent.toml names can't be used: %s", why)
            return None

    def _read(self, path: Path) -> BundleMachine:
        existed = path.exists()
        machine = read_state(path, BundleMachine)
        if machine is not None:
            return machine
        return self._recovered() if existed else BundleMachine()

    def _recovered(self) -> BundleMachine:
        """What the link ``current`` knows, where the state file is gone."""
        slot = self._slots.current()
        if slot is None or slot == "factory":
            return BundleMachine()
        try:
            installed = reference(self._slots.open(slot))
        except LinesideError as error:
            log.error("slot %s can't be used: %s", slot, error)
            return BundleMachine()
        return BundleMachine(state="active", installed=installed, installed_slot=slot)
