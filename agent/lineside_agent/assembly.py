"""Build the parts of one agent from its configuration, and connect them. `lineside_agent.daemon` runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lineside_agent.config import AgentConfig
from lineside_agent.deployment.artifacts.agent import AgentArtifact
from lineside_agent.deployment.artifacts.bundle import BundleArtifact
from lineside_agent.deployment.artifacts.configuration import ConfigurationArtifact, FollowedConfiguration
from lineside_agent.deployment.local_request import LocalRequests
from lineside_agent.deployment.machine import AgentMachine, BundleMachine
from lineside_agent.deployment.offline_import import OfflineImport
from lineside_agent.deployment.runner import Deployment, Runner, ShouldStop
from lineside_agent.deployment.self_update.slots import AgentSlots
from lineside_agent.deployment.slots import Slots
from lineside_agent.health.device_use import DeviceUseMonitor
from lineside_agent.health.watchdog import Watchdog
from lineside_agent.hub_client.no_hub import NoHub
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.assembly import InspectionAssembly
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.line_io.events import RecipeRefused, RecipeRuns
from lineside_agent.service.notify import Notifier
from lineside_agent.storage.storage import DeviceStorage
from lineside_agent.storage.verdict_marks import VerdictMarks
from lineside_link.messages import BundleRef, ConfigRef
from lineside_runtime.errors import MissingExtraError
from lineside_runtime.progress import CountListener

if TYPE_CHECKING:
    from lineside_agent.documents.service import DocumentService
    from lineside_agent.hub_client.client import HubClient
    from lineside_agent.recommendation.service import RecommendationService
    from lineside_agent.screen.screen import Screen


class AgentAssembly:
    """The parts of one agent.

    The callbacks of a part may use parts that are built after it: nothing calls them before its thread is started.

    Args:
        config_path: Of that file, for a new agent to check before it takes over.
        boot_id: Random name of this start.
        end: Ends the process, so that its supervisor starts it again.
        observe: Takes each state of a bundle's deployment, after it was written down and before it is acted upon.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        config_path: Path,
        boot_id: str,
        stop: threading.Event,
        end: Callable[[], None],
        observe: Callable[[BundleMachine], None],
    ) -> None:
        self.config = config
        self.boot_id = boot_id
        self.end = end
        self._stop = stop
        self._observe = observe
        self.active = ActiveBundle()
        self.configuration = FollowedConfiguration(config)
        self.storage = DeviceStorage(config, self.configuration.effective.store, stop)
        self.recipes = Recipes(config.folder, config.recipe)
        self.inspection = InspectionAssembly(
            config,
            active=self.active,
            recipes=self.recipes,
            store=self.storage.store,
            stop=stop,
            report_drift=lambda report: self.hub.report(drift=report),
        )
        self.recommendation = self._make_recommendation()
        self.documents = self._make_documents()
        self.hub = self._make_hub()
        self.marks = VerdictMarks(config.folder)
        self.imports = OfflineImport(config.folder, group=config.group, root=config.root)
        self.local_requests = LocalRequests(config.folder)
        self.updater = self._make_updater()
        self.degradation = self.inspection.make_degradation(
            self.storage.archive, lambda report: self.hub.report(degradation=report)
        )
        self.device_use = DeviceUseMonitor(
            self.active, self.inspection.pipeline.counts, lambda report: self.hub.report(placement=report)
        )
        self.screen = self._make_screen()
        self.recipes.attach(wake=self.updater.kick, tell=self._report_recipe)
        self.notifier = Notifier()
        self.watchdog = Watchdog(
            cameras=self.inspection.cameras,
            counts=self.inspection.pipeline.counts,
            active=self.active,
            store=self.storage.store,
            notifier=self.notifier,
            triggered=self.inspection.trigger_controller is not None,
        )
        self.agent = self._make_agent_artifact(config_path)
        self.self_updater = Runner(Deployment(self.agent), stop=stop)

    def _make_recommendation(self) -> RecommendationService | None:
        if self.config.recommend is None:
            return None
        from lineside_agent.recommendation.service import RecommendationService  # only who recommends pays for it

        return RecommendationService(self.config.folder, self.config.recommend, self.active, self._stop)

    def _make_documents(self) -> DocumentService | None:
        if self.config.documents is None:
            return None
        from lineside_agent.documents.service import DocumentService  # only who reads documents pays for it

        return DocumentService(self.config.folder, self.config.documents, self.active, self._stop)

    def _make_hub(self) -> HubClient | NoHub:
        if self.config.link is None:
            return NoHub()
        # The check of signatures keeps 12 MB, which only an agent with a hub needs.
        from lineside_agent.hub_client.client import HubClient

        return HubClient(
            self.config,
            self.boot_id,
            self.storage.store,
            self._stop,
            interactions=self.recommendation.sent if self.recommendation is not None else None,
            settings=lambda: self.configuration.effective.store,
            inspected=lambda: self.inspection.pipeline.counts.inspected,
        )

    def _make_screen(self) -> Screen | None:
        if self.config.screen is None:
            return None
        try:
            from lineside_agent.screen.screen import Screen
            from lineside_agent.screen.set_up.access import SetUpAccess
            from lineside_agent.screen.state import ScreenState
        except ModuleNotFoundError as error:
            action = "Run: pip install 'lineside[screen]'"
            raise MissingExtraError(f"[screen] needs the package {error.name!r}", action=action) from error
        state = ScreenState(
            self.config,
            self.config.screen,
            active=self.active,
            archive=self.storage.archive,
            flush=self.storage.store.flush,
            send_image=self.storage.store.send_image,
            recent_s=lambda: self.inspection.statistics.recent_s,
        )
        access = SetUpAccess(
            readers=self.inspection.cameras.readers,
            configuration=self.configuration,
            recipes=self.recipes,
            requests=self.local_requests,
            machine=lambda: self.updater.reported,
            deploy=self.updater.post,
        )
        screen = Screen(state, access)
        self.inspection.observe_record = screen.observe
        return screen

    def _make_updater(self) -> Runner[BundleMachine]:
        """Deploys bundles, and configurations while no bundle is deployed."""
        config = self.config
        bundle = BundleArtifact(
            config.folder,
            slots=Slots(config.folder, config.bundle),
            active=self.active,
            inspect=lambda: self.configuration.effective.inspect,
            fetch=self._bring_bundle,
            report=self._report_bundle,
            stop=self._stop,
            observe=self._observe,
            ignored=lambda reason: self.hub.report(ignored=reason),
            gate=self.hub.reason_to_wait,
            recipes=self.recipes,
            prepare=self.inspection.prepare_recipe,
            degrade=config.degrade,
            cameras=config.cameras,
        )
        configuration = ConfigurationArtifact(
            self.configuration,
            bundle,
            fetch=self._bring_configuration,
            report=lambda report: self.hub.report(
                configuration=msgspec.structs.replace(report, waiting=following.waiting)
            ),
            apply_store=self.storage.use,
            gate=self.hub.reason_to_wait,
        )
        following = Deployment(configuration)
        return Runner(Deployment(bundle), following, stop=self._stop)

    def _make_agent_artifact(self, config_path: Path) -> AgentArtifact:
        return AgentArtifact(
            self.config.folder,
            config_path=config_path,
            slots=AgentSlots.around(),
            fetch=self.hub.fetch_agent,
            host=self,
            report=self._report_agent,
            stop=self._stop,
            update=self.config.update,
            gate=self.hub.reason_to_wait,
        )

    # Callbacks.

    def _bring_bundle(self, bundle: BundleRef, folder: Path, progress: CountListener, should_stop: ShouldStop) -> None:
        if self.local_requests.holds(bundle, self.updater.machine):
            self.local_requests.fetch_bundle(bundle, folder, progress, should_stop)
            return
        source = self.imports if self.imports.holds(bundle) else self.hub
        source.fetch(bundle, folder, progress, should_stop)

    def _bring_configuration(self, configuration: ConfigRef, should_stop: ShouldStop) -> bytes:
        if self.local_requests.holds(configuration, self.configuration.machine):
            return self.local_requests.fetch_configuration(configuration)
        return self.hub.fetch_configuration(configuration, should_stop)

    def _report_bundle(self, machine: BundleMachine, progress: float) -> None:
        self.hub.report_bundle(machine, progress, self.updater.waiting)

    def _report_agent(self, machine: AgentMachine) -> None:
        if self.agent.in_slot:
            self.hub.report_agent(machine, self.self_updater.waiting)

    def _report_recipe(self, event: RecipeRuns | RecipeRefused) -> None:
        self.inspection.report_recipe(event)
        self.hub.report(recipe=self.recipes.name)

    # `lineside_agent.deployment.artifacts.agent.Host`, called in the thread of the agent's own update.

    def healthy(self) -> bool:
        """As `Watchdog.is_healthy`."""
        return self.watchdog.is_healthy(self.updater.machine)

    def quiet(self) -> bool:
        """As `Watchdog.is_quiet`."""
        return self.watchdog.is_quiet(self.updater.machine)

    def met_hub(self) -> bool:
        """As `HubClient.met_hub`."""
        return self.hub.met_hub()
