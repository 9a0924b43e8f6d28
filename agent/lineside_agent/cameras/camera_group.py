"""The cameras that look at one part, each with its own thread and queue.

One that is lost or frozen stops none of the others; the line isn't ready meanwhile, as no part can be judged whole.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

from lineside_agent.cameras import Camera, open_camera
from lineside_agent.cameras.reader import FrameSink, Reader, ReaderCounts
from lineside_agent.config import AgentConfig, CameraConfig
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.inspection.views import joint_source
from lineside_runtime.errors import CameraError


class CameraGroup:
    """All cameras of an agent.

    Attributes:
        readers: One a camera, in the order of the configuration.
        source: Common name in the records.
        finite: Whether all of them end by themselves and can wait.
    """

    def __init__(
        self, config: AgentConfig, recipes: Recipes, sinks: Sequence[FrameSink], stop: threading.Event
    ) -> None:
        self._config = config
        self._recipes = recipes
        self._stop = stop
        self._configs: list[CameraConfig] = [recipes.apply_to_camera(table) for table in config.cameras]
        cameras = [self._open(table) for table in self._configs]
        self.source = joint_source([camera.source for camera in cameras])
        self.finite = all(camera.finite for camera in cameras)
        self.readers = tuple(
            Reader(camera, sink, stop, rate_hz=table.rate_hz, frames=table.frames, retry=not config.exit_when_done)
            for camera, sink, table in zip(cameras, sinks, self._configs, strict=True)
        )

    def _open(self, table: CameraConfig) -> Camera:
        return open_camera(table, state=self._config.folder)

    def follow_recipe(self, timeout_s: float) -> None:
        """Applies the camera settings of the chosen recipe, within ``timeout_s`` a camera that is opened again."""
        for index, table in enumerate(self._config.cameras):
            config = self._recipes.apply_to_camera(table)
            if config != self._configs[index]:
                self._configs[index] = config
                self.readers[index].replace_camera(self._open(config), timeout_s)

    def threads(self, first: int, ready: Callable[[], bool]) -> dict[str, Callable[[], None]]:
        """Returns what each camera's thread does, by the thread's name.

        Args:
            ready: Waits for the first bundle; false if the agent stops.
        """

        def work(reader: Reader) -> Callable[[], None]:
            return lambda: reader.run(first) if ready() else None

        names = [f"camera {index}" if index else "camera" for index in range(len(self.readers))]
        return {name: work(reader) for name, reader in zip(names, self.readers, strict=True)}

    def end(self) -> None:
        """Ends cameras that wait for their own trigger input; the caller has set ``stop``."""
        for reader in self.readers:
            reader.end()

    @property
    def counts(self) -> ReaderCounts:
        """The sums over all cameras."""
        each = [dataclasses.astuple(reader.counts) for reader in self.readers]
        return ReaderCounts(*(sum(values) for values in zip(*each, strict=True)))

    @property
    def problem(self) -> CameraError | None:
        """Why one of the cameras gives nothing; ``None`` while all do."""
        return next((reader.problem for reader in self.readers if reader.problem is not None), None)

    @property
    def waiting_since_s(self) -> float | None:
        """When the longest wait for a frame began; ``None`` while no camera is waited for."""
        waits_s = [reader.waiting_since_s for reader in self.readers if reader.waiting_since_s is not None]
        return min(waits_s, default=None)

    def status(self) -> list[dict[str, Any]]:
        """What ``status.json`` says of each camera."""
        return [
            {
                "source": reader.source,
                "frames": reader.counts.frames,
                "outages": reader.counts.outages,
                "spoiled": reader.counts.spoiled,
                "problem": None if reader.problem is None else str(reader.problem),
            }
            for reader in self.readers
        ]
