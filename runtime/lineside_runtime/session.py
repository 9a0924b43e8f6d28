"""A bundle, loaded on the devices that the configuration names: what a user holds."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lineside_runtime.bundle import Bundle, Manifest, open_bundle, sample_inputs
from lineside_runtime.config import GPU_RATIO, Config, check_seconds
from lineside_runtime.errors import (
    ConfigError,
    DeviceError,
    IncompatibleBundleError,
    NoDeviceError,
    UnsupportedModelError,
)
from lineside_runtime.logs import log
from lineside_runtime.serving.candidates import CandidateChoice, also_for, choose, device_first, only_devices
from lineside_runtime.serving.health import Failures, Fallback
from lineside_runtime.serving.placement import Placement
from lineside_runtime.serving.serving_plan import AS_CONFIGURED, ServingPlan, plans_folder
from lineside_runtime.serving.shared import Retired, Shared
from lineside_runtime.serving.types import DeviceShare, Prediction
from lineside_runtime.tensors import Array, InputCheck

if TYPE_CHECKING:
    from concurrent.futures import Future

    from lineside_runtime.cache.levels import ResultCache
    from lineside_runtime.cache.placement import CachedPlacement
    from lineside_runtime.cache.stats import CacheStats
    from lineside_runtime.serving.submit import SubmitCounters, SubmitCounts
    from lineside_runtime.stages.placement import StagedPlacement

__all__ = ["Config", "DeviceShare", "Pinned", "Prediction", "Session"]

ARCHIVE_SUFFIX = ".lsb"

Answer = Callable[[Mapping[str, Array]], Prediction]


class Session:
    """Runs a bundle; any number of threads may call `predict` at once, also while `reload` works.

    ::

        with Session("surface-12") as session:
            outputs = session.predict(tensor)
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        config: Config | None = None,
        *,
        compute_share: float = 1.0,
        plan: ServingPlan | None = None,
    ) -> None:
        """Opens and loads the bundle.

        Args:
            bundle: An opened bundle, its folder, or a ``.lsb`` archive.
            config: Where it may run; `Config()` if ``None``.
            compute_share: The model's share of the compute of everything that runs on this box, 0 to 1; see
                `Config.npu_threshold`. 1 for the only model.
            plan: How this bundle is served, also after a `reload` of it; ``None`` for the plan that ``lineside plan``
                has kept on this machine for the bundle and configuration, if there is one, else as configured.

        Raises:
            InputNotFoundError: There is no such bundle.
            BundleError: It is damaged, or nothing here fits it.
            DeviceError: No device here can run it.
            ConfigError: The result cache can't work as configured.
            MissingExtraError: It is to use Redis, and the extra for that isn't installed.
        """
        self._config = config or Config()
        self._compute_share = compute_share
        self._given_plan = plan
        self._given_for: str | None = None
        self._plan = AS_CONFIGURED
        self._failures = Failures()
        self._submit_counters: SubmitCounters | None = None
        self._reloading = threading.Lock()
        self._starting = threading.Lock()
        self._counting = threading.Lock()
        self._calls = 0
        self._rerouted = 0
        self._absent_noted: set[str] = set()
        self._cache = _cache(self._config)
        try:
            self._serving = self._open(bundle, None)
        except BaseException:
            if self._cache is not None:
                self._cache.close()
            raise
        self._shared = Shared(self._serving)
        self._closed = False
        self._used = str(self._serving.placement.leader)
        if self._config.gpu_ratio is not GPU_RATIO:
            for reason in self.unused_settings:
                log.warning("%s: %s", self.manifest.identity, reason)

    def predict(self, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
        """Runs the model on one batch, in the caller's thread.

        Args:
            inputs: Array by input name, or the array alone where the model has one input.

        Returns:
            Array by output name.

        Raises:
            BadInputFormatError: An input is missing, unknown, or has another shape or type than the manifest says.
            OutOfDeviceMemoryError: The device has no room for this batch, and no other device could take it.
            DeviceError: Every device failed; the first one's error.
        """
        return self.infer(inputs).outputs

    def infer(self, inputs: Array | Mapping[str, Array]) -> Prediction:
        """Like `predict`, with the requested device, the used device and the time."""
        serving, shared = self._enter()
        try:
            prediction = serving.answer(serving.check(inputs))
        finally:
            shared.leave()
        self._answered(prediction)
        return prediction

    def submit(self, inputs: Array | Mapping[str, Array], *, deadline_s: float | None = None) -> Future[Prediction]:
        """Gives one batch to a worker thread, and to the next device if one fails or doesn't answer in time.

        It returns at once, whatever waits. The inputs must not be changed until the future is done; a callback of the
        future runs in a worker thread and must be short. ``docs/guides/program.md`` says how the time is divided.

        Args:
            inputs: As in `predict`.
            deadline_s: Seconds from now in which the future is done, with an answer or an error; ``None`` for no limit:
                then a device that hangs is noticed only by calls that have one.

        Returns:
            Done with the answer, with `DeadlineExceededError` if no device answered in time, or with what `predict`
            would have raised. ``cancel`` works while the call waits.

        Raises:
            BadInputFormatError: An input is missing, unknown, or has another shape or type than the manifest says.
            ConfigError: ``deadline_s`` is no number above 0.
            DeviceBusyError: `Config.submit_queue` calls wait already; this one was not taken.
            DeviceLostError: Every device hangs; this one was not taken.
        """
        counters = self._submit_counters or self._start_submitting()
        deadline_at_s = math.inf
        if deadline_s is not None:
            check_seconds("deadline_s", deadline_s)
            deadline_at_s = time.monotonic() + deadline_s
        serving, shared = self._enter()
        try:
            checked = serving.check(inputs)
            dispatcher = serving.placement.dispatcher(counters, self._answered)
            give = partial(dispatcher.submit, checked, deadline_at_s, shared.leave)
            return give() if serving.cached is None else self._from_cache(serving.cached, checked, give, shared)
        except BaseException:
            shared.leave()
            raise

    def _from_cache(
        self,
        cached: CachedPlacement,
        inputs: Mapping[str, Array],
        give: Callable[[], Future[Prediction]],
        shared: Shared[Serving],
    ) -> Future[Prediction]:
        from lineside_runtime.cache.submission import submit_through_cache  # only who caches and submits pays for it

        def on_hit(prediction: Prediction) -> None:
            self._answered(prediction)
            shared.leave()

        return submit_through_cache(cached, inputs, give=give, on_hit=on_hit)

    def _start_submitting(self) -> SubmitCounters:
        from lineside_runtime.serving.submit import SubmitCounters  # only who submits pays for it

        with self._starting:
            if self._submit_counters is None:
                self._submit_counters = SubmitCounters()
            return self._submit_counters

    def warm_up(self, inputs: Array | Mapping[str, Array] | None = None) -> Prediction:
        """Runs one frame on a device, so that the first real call isn't the slow one.

        It isn't counted as a call, and the result cache neither answers nor keeps it.

        Args:
            inputs: As for `infer`; ``None`` for zeros.

        Raises:
            BadInputFormatError: As for `infer`.
            DeviceError: Every device failed; the first one's error.
        """
        with self._held() as serving:
            return serving.placement.run(
                sample_inputs(serving.placement.bundle.manifest) if inputs is None else serving.check(inputs)
            )

    @contextmanager
    def pinned(self) -> Iterator[Pinned]:
        """Holds on to the present bundle, so that preparing, running and decoding a frame see the same one.

        A `reload` in between is over before the bundle is let go; it is closed when the last holder lets go.

        Raises:
            DeviceError: The session is closed.
        """
        with self._held() as serving:
            yield Pinned(self, serving)

    @contextmanager
    def _held(self) -> Iterator[Serving]:
        serving, shared = self._enter()
        try:
            yield serving
        finally:
            shared.leave()

    def _enter(self) -> tuple[Serving, Shared[Serving]]:
        """Returns what serves now, held open until `Shared.leave`."""
        while True:
            shared = self._shared
            try:
                return shared.enter(), shared
            except Retired:  # swapped in between: take the successor
                self._refuse_closed()

    def _answered(self, prediction: Prediction) -> None:
        with self._counting:
            self._calls += 1
            self._rerouted += prediction.fell_back
            self._used = prediction.used_device

    def reload(
        self,
        bundle: Bundle | Path | str | None = None,
        *,
        optimization_level: int | None = None,
        variant: str | None = None,
    ) -> None:
        """Puts another bundle or variant in place while other threads go on predicting.

        The new one is loaded before the old one is given up, so that on an error the old one stays; the old one is
        closed when the last call that uses it has returned.

        Args:
            bundle: The new bundle; ``None`` for the same one.
            optimization_level: Take the variant of this level, 0 to 3; ``None`` for the bundle's best.
            variant: Take the variant of this name, such as that of another width, from now on; ``None``: as configured.

        Raises:
            IncompatibleBundleError: The bundle has no variant of this level for a device here.
            ConfigError: The bundle has no variant of this name.
            LinesideError: As in the constructor; the old bundle goes on.
        """
        with self._reloading:
            self._refuse_closed()
            before = self._config
            if variant is not None:
                self._config = msgspec.structs.replace(before, variant=variant)
            try:
                fresh = self._open(self.bundle if bundle is None else bundle, optimization_level)
            except BaseException:
                self._config = before
                raise
            old, self._serving, self._shared = self._shared, fresh, Shared(fresh)
            self._used = str(fresh.placement.leader)
            old.retire()
            log.info("%s: reloaded on %s", self.manifest.identity, self._used)

    def close(self, *, wait_s: float = 10.0) -> None:
        """Gives the devices back when the last running call has returned; done twice it changes nothing.

        Args:
            wait_s: How long to wait for submitted calls; those that are open then end with `DeviceError`.
        """
        with self._reloading:
            self._closed = True
            self._shared.retire()
        if self._submit_counters is not None:
            self._submit_counters.finish(wait_s)
        if self._cache is not None:
            self._cache.close()

    @property
    def bundle(self) -> Bundle:
        """The bundle that answers the next call."""
        return self._serving.placement.bundle

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return self._serving.placement.bundle.manifest

    @property
    def config(self) -> Config:
        """The configuration."""
        return self._config

    @property
    def variant(self) -> str:
        """Name of the variant that leads, such as ``onnx-int8``."""
        return self._serving.placement.leader.variant.name

    @property
    def requested_device(self) -> str:
        """The device that the configuration asks for first, such as ``cpu:0``; it may be absent."""
        return self._serving.placement.requested_device

    @property
    def used_device(self) -> str:
        """The engine and device that answered the last call, such as ``ort/cpu:0``; at first, what is loaded."""
        return self._used

    @property
    def plan(self) -> ServingPlan:
        """How the bundle is served."""
        return self._plan

    @property
    def unused_settings(self) -> tuple[str, ...]:
        """Settings of the configuration that decide nothing on this box, each with the reason."""
        placement = self._serving.placement
        if any("gpu" in str(one.device) for one in (placement.requested, *placement.firsts)):
            return ()
        return (f"gpu_ratio = {self._config.gpu_ratio:g} has no effect: no GPU here runs this model",)

    @property
    def fallbacks(self) -> tuple[Fallback, ...]:
        """The last failures of devices and engines with their reasons, oldest first."""
        return self._failures.kept

    @property
    def fallback_count(self) -> int:
        """How many failures there were in all."""
        return self._failures.count

    @property
    def engine_restarts(self) -> int:
        """How many processes of isolated engines ended and were started again; see `Config.isolate`."""
        return self._failures.restarts

    @property
    def calls(self) -> int:
        """How many calls were answered."""
        return self._calls

    @property
    def rerouted(self) -> int:
        """How many of them were answered by another engine or device than the first one asked for."""
        return self._rerouted

    @property
    def cache_stats(self) -> CacheStats | None:
        """What the result cache has done; ``None`` without one."""
        return None if self._cache is None else self._cache.stats

    @property
    def submit_counts(self) -> SubmitCounts:
        """What became of the submitted calls, over all bundles that were served."""
        return (self._submit_counters or self._start_submitting()).counts

    @property
    def shares(self) -> tuple[DeviceShare, ...]:
        """How much each device does, how long it takes and how many calls wait for it, in the order of preference."""
        return self._serving.placement.shares

    @property
    def standby_device(self) -> str | None:
        """The device that is loaded and warm and would take over, such as ``openvino/cpu:0``; see `Config.standby`."""
        return self._serving.placement.standby_device

    def __enter__(self) -> Session:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def _open(self, source: Bundle | Path | str, level: int | None) -> Serving:
        bundle = _opened(source)
        cleanup = bundle.hold()
        try:
            if bundle.manifest.several:
                raise UnsupportedModelError(
                    f"{bundle.manifest.identity} is a bundle of several models",
                    expected="a bundle of one model",
                    action="Run its folder (`lineside bundle unpack` makes one of an archive) on the agent or with "
                    "`lineside inspect`, or open one of the models in it.",
                )
            plan = self._plan_of(bundle) if level is None else AS_CONFIGURED
            if plan != AS_CONFIGURED:
                try:
                    return self._serve_by(plan, bundle, level, cleanup)
                except (ConfigError, DeviceError, IncompatibleBundleError) as error:
                    log.warning("%s: its plan (%s) is not used: %s", bundle.manifest.identity, plan, error)
            return self._serve_by(ServingPlan(excluded=plan.excluded), bundle, level, cleanup)
        except BaseException:
            if cleanup is not None:
                cleanup()
            raise

    def _plan_of(self, bundle: Bundle) -> ServingPlan:
        """Returns the plan that was given if this is the first bundle, else the one that is kept for this one."""
        if self._given_for is None:
            self._given_for = bundle.digest
        if self._given_plan is not None and bundle.digest == self._given_for:
            return self._given_plan
        try:
            kept = plans_folder().is_dir()
        except ConfigError:  # no home, so no plan
            kept = False
        if not kept:
            return AS_CONFIGURED
        from lineside_runtime.serving.plan_file import plan_file, read_plan  # only where there are plans

        plan = read_plan(plan_file(bundle, self._config), bundle, self._config)
        if plan is None:
            return AS_CONFIGURED
        log.info("%s: served as measured here: %s", bundle.manifest.identity, plan.why)
        return plan.chosen

    def _serve_by(
        self, plan: ServingPlan, bundle: Bundle, level: int | None, cleanup: Callable[[], None] | None
    ) -> Serving:
        config = plan.applied_to(self._config)
        manifest = bundle.manifest
        if plan.kind in ("device", "replicas"):
            manifest = also_for(manifest, plan.device_kinds)
        choice = choose(manifest, config, level=level, share=self._compute_share, on_absent=self._note_absent)
        if plan.excluded:
            choice = choice.without(plan.excluded)
        if plan.kind == "device":
            choice = device_first(plan.devices[0], choice, manifest, config)
            if str(choice.at(0)) != plan.devices[0]:
                raise NoDeviceError(f"{plan.devices[0]} is not here", actual=str(choice.at(0)))
        if plan.kind == "replicas" and plan.devices:
            choice = only_devices(plan.devices, choice)
        if plan.kind != "device" and self._config.fallback_strategy == "fastest":
            from lineside_runtime.serving.fastest_candidate import order_by_speed  # only who measures pays for it

            choice = order_by_speed(bundle, choice, config)
        staged = None if plan.kind == "device" else self._stage(plan, bundle, choice, config, level, cleanup)
        placement = staged or Placement(bundle, choice, config, self._failures, on_close=cleanup)
        self._plan = plan
        return Serving(placement, self._cached(placement, config))

    def _stage(
        self,
        plan: ServingPlan,
        bundle: Bundle,
        whole: CandidateChoice,
        config: Config,
        level: int | None,
        cleanup: Callable[[], None] | None,
    ) -> StagedPlacement | None:
        """Returns what serves a bundle that is cut, if its stages have devices of their own."""
        wanted = config.stage_engines or config.stage_cores
        if not wanted and not any(variant.stages for variant in bundle.manifest.variants):
            return None
        from lineside_runtime.stages.placement import StagedPlacement
        from lineside_runtime.stages.plan import plan_stages  # only who cuts pays for it

        placed = plan_stages(
            bundle,
            whole,
            config,
            level=level,
            share=self._compute_share,
            excluded=plan.excluded,
            on_absent=self._note_absent,
        )
        return StagedPlacement(bundle, placed, self._failures, on_close=cleanup) if placed else None

    def _cached(self, placement: Placement | StagedPlacement, config: Config) -> CachedPlacement | None:
        if self._cache is None:
            return None
        from lineside_runtime.cache.placement import CachedPlacement  # only who caches pays for it

        return CachedPlacement(self._cache, placement, config)

    def _note_absent(self, name: str, error: DeviceError) -> None:
        if self._config.engines and name not in self._absent_noted:  # asked for by name, so it is a fallback
            self._absent_noted.add(name)
            self._failures.add(name, "probe", error)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise DeviceError("the session is closed", action="Open another one.")


class Serving:
    """What serves the calls from one `reload` to the next.

    Attributes:
        placement: Where the bundle is loaded.
        check: Names and checks the inputs of a call.
        cached: The placement behind the result cache, if there is one.
        answer: Answers a call whose inputs are checked: the placement itself, or the cache before it.
    """

    __slots__ = ("answer", "cached", "check", "placement")

    def __init__(self, placement: Placement | StagedPlacement, cached: CachedPlacement | None = None) -> None:
        self.placement = placement
        self.check = InputCheck(placement.bundle.manifest.inputs)
        self.cached = cached
        self.answer: Answer = placement.run if cached is None else cached.run

    def close(self) -> None:
        """Gives the devices back."""
        self.placement.close()


class Pinned:
    """One bundle of a session, held open; see `Session.pinned`."""

    def __init__(self, session: Session, serving: Serving) -> None:
        self._session = session
        self._serving = serving
        self.bundle = serving.placement.bundle
        self.manifest = self.bundle.manifest

    def infer(self, inputs: Array | Mapping[str, Array]) -> Prediction:
        """Like `Session.infer`, always with this bundle."""
        prediction = self._serving.answer(self._serving.check(inputs))
        self._session._answered(prediction)
        return prediction


def _cache(config: Config) -> ResultCache | None:
    if config.cache is None:
        return None
    from lineside_runtime.cache.levels import ResultCache  # only who caches pays for it

    return ResultCache(config.cache)


def _opened(source: Bundle | Path | str) -> Bundle:
    if isinstance(source, Bundle):
        return source
    path = Path(source)
    if path.suffix != ARCHIVE_SUFFIX or path.is_dir():
        return open_bundle(path)
    from lineside_runtime.bundle.archive import TemporaryBundle  # only an archive needs it, and the zip

    return TemporaryBundle(path)
