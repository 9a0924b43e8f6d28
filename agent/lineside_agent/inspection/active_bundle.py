"""The bundle that is active, for the pipeline.

A swap falls between two frames: a frame that has begun ends with the bundle with which it began, and the old bundle is
closed by its owner only when no frame uses it any more.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from lineside_agent.inspection.loaded_bundle import LoadedBundle


class ActiveBundle:
    """Holds at most one loaded bundle.

    Attributes:
        problem: Why the bundle that ``agent.toml`` names cannot be used, until another one is active.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._loaded: LoadedBundle | None = None
        self._in_use: list[LoadedBundle] = []
        self._changed = threading.Condition()
        self._reset()

    def _reset(self) -> None:
        self._good_frames = self._refused_frames = 0
        self._failure = self._refusal = ""

    @property
    def loaded(self) -> LoadedBundle | None:
        """The active bundle; ``None`` if there is none."""
        with self._changed:
            return self._loaded

    @property
    def recipe(self) -> str:
        """Name of the recipe of the next frame; empty without one."""
        loaded = self.loaded
        return "" if loaded is None else loaded.recipe

    def swap(self, loaded: LoadedBundle | None) -> LoadedBundle | None:
        """Activates ``loaded`` for the next frame (``None``: the line waits), and waits until the old one is unused.

        Returns:
            The old one, which is not used any more.
        """
        with self._changed:
            old, self._loaded = self._loaded, loaded
            self.problem = self.problem if loaded is None else ""
            self._reset()
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(used is loaded for used in self._in_use))
            return old

    def wait(self, stop: threading.Event) -> bool:
        """Waits for a bundle, or for ``stop``; returns whether there is one."""
        with self._changed:
            while self._loaded is None and not stop.is_set():
                self._changed.wait(0.2)
            return self._loaded is not None

    @contextlib.contextmanager
    def use(self) -> Iterator[LoadedBundle | None]:
        """Yields the active bundle, and keeps it open meanwhile."""
        with self._changed:
            used = self._loaded
            if used is not None:
                self._in_use.append(used)
        try:
            yield used
        finally:
            if used is not None:
                with self._changed:
                    self._release(used)
                    self._changed.notify_all()

    def _release(self, used: LoadedBundle) -> None:
        """Removes one use; by identity, since two equal bundles may be open at once."""
        del self._in_use[next(index for index, each in enumerate(self._in_use) if each is used)]

    def note_result(self, loaded: LoadedBundle, reason: str, *, refused: bool = False) -> None:
        """Notes the result of a frame for the health check.

        Args:
            reason: Empty, or why the frame is a fault.
            refused: Whether the frame shows something else than the bundle's reference: a part of the product before is
                no failure of the bundle, but a bundle that refuses every frame has the wrong reference.
        """
        with self._changed:
            if loaded is not self._loaded:
                return
            self._good_frames += not reason
            if refused:
                self._refused_frames += 1
                self._refusal = reason
            else:
                self._failure = self._failure or reason
            self._changed.notify_all()

    def watch(self, frames: int, timeout_s: float) -> tuple[str, bool]:
        """Waits until the active bundle has inspected ``frames`` frames, has failed, or the time is over.

        Returns:
            Why a frame failed, or empty; and whether enough frames were inspected.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._good_frames >= frames or bool(self._failed(frames)), timeout_s)
            failure, enough = self._failed(frames), self._good_frames >= frames
            if failure:
                self._reset()  # another check begins anew
            return failure, enough

    def _failed(self, frames: int) -> str:
        refuses_all = not self._good_frames and self._refused_frames >= frames
        return self._failure or (self._refusal if refuses_all else "")
