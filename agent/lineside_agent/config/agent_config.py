"""`AgentConfig`: all of ``agent.toml``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from lineside_agent.config.cameras import CameraConfig
from lineside_agent.config.line_io import LineConfig
from lineside_agent.config.tables import (
    DegradeConfig,
    DocumentsConfig,
    DriftConfig,
    GateConfig,
    InspectConfig,
    MetricsConfig,
    RecipeConfig,
    RecommendConfig,
    ScreenConfig,
    StoreConfig,
    TransferConfig,
    TriggerConfig,
    UpdateConfig,
)
from lineside_agent.config.value_types import ConfigTable, FilePath
from lineside_link.config import LinkConfig

DefectNumber = Annotated[int, msgspec.Meta(ge=1, le=254)]


class AgentConfig(ConfigTable, frozen=True, kw_only=True):
    """Configuration of the agent: the whole of ``agent.toml``.

    Attributes:
        device: Name of this device; the common name of its certificate.
        group: Name of the group that the device belongs to.
        folder: Folder in which the agent keeps its state.
        camera: Where frames come from; ``[[camera]]`` for several cameras that see each part together.
        link: How to reach the hub's broker; unset: the agent works alone.
        root: File with the TUF root to trust at first; needed with ``link``.
        bundle: A bundle folder to run until one is pushed, or the name of a shipped one, where there is no such folder.
        exit_when_done: Whether to end after the last frame, once every record is on disk and, with a link, at the hub.
        inspect: Settings of the engine, and what counts as a defect.
        store: Limits of records and images.
        update: Trial of a new agent.
        line_io: Protocols of the line, for verdicts and triggers.
        trigger: Triggers of the line; unset: each frame of the camera is a part.
        defect_numbers: Number of a defect type for the line (Modbus), by its name; types that are not named have 255.
            Several types may have one number. Without this table a type has its place among the bundle's labels, from
            1, which another bundle may change.
        gate: Place of the reject gate; unset: the line's PLC counts parts to it.
        transfer: Transfer of bundles from the hub.
        metrics: Address of the metrics for Prometheus; unset: there are none.
        screen: Operator screen in a browser; unset: there is none.
        drift: Alarms when the line has changed; unset: there are none.
        degrade: Service that is reduced while the board is hot or the line late; unset: nothing is.
        documents: Documents that this device reads for programs on it; unset: there are none.
        recommend: Recommendations for programs on this device; unset: there are none.
        recipe: Products that the line changes between; the first runs until another is requested.
        recipe_from_hub: Whether the hub may change the recipe too (`lineside fleet recipe`).
        time_for_hub: Whether the hub may time bundles here that do not run (`lineside optimize --on`): that takes cores
            from the line for about a minute.
        log_for_hub: Whether the hub may read the newest lines of the agent's log.
    """

    device: str
    group: str = "default"
    folder: FilePath
    camera: CameraConfig | tuple[CameraConfig, ...]
    link: LinkConfig | None = None
    root: FilePath | None = None
    bundle: FilePath | None = None
    exit_when_done: bool = False
    inspect: InspectConfig = InspectConfig()
    store: StoreConfig = StoreConfig()
    update: UpdateConfig = UpdateConfig()
    line_io: tuple[LineConfig, ...] = ()
    trigger: TriggerConfig | None = None
    defect_numbers: dict[str, DefectNumber] = msgspec.field(default_factory=dict)
    gate: GateConfig | None = None
    transfer: TransferConfig = TransferConfig()
    metrics: MetricsConfig | None = None
    screen: ScreenConfig | None = None
    drift: DriftConfig | None = None
    degrade: DegradeConfig | None = None
    documents: DocumentsConfig | None = None
    recommend: RecommendConfig | None = None
    recipe: tuple[RecipeConfig, ...] = ()
    recipe_from_hub: bool = False
    time_for_hub: bool = False
    log_for_hub: bool = True

    @property
    def cameras(self) -> tuple[CameraConfig, ...]:
        """All cameras, also where there is one."""
        return self.camera if isinstance(self.camera, tuple) else (self.camera,)
