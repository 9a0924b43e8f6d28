"""The handle through which the pipeline uses the bundle that is active.

A swap falls between two frames: a frame that has begun ends with the inspector with which it began, and the old one is
closed by its owner only when no frame uses it any more.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from lineside_agent.inspection.loaded_bundle import LoadedBundle


class ActiveInspector:
    """Holds at most one loaded bundle."""

    def __init__(self) -> None:
        self._loaded: LoadedBundle | None = None
        self._in_use: list[LoadedBundle] = []
        self._changed = threading.Condition()
        self._good = 0
        self._broken = ""

    @property
    def loaded(self) -> LoadedBundle | None:
        """What runs now."""
        with self._changed:
            return self._loaded

    @property
    def recipe(self) -> str:
        """Name of the recipe under which the next frame is judged; empty without one."""
        loaded = self.loaded
        return "" if loaded is None else loaded.recipe

    def swap(self, loaded: LoadedBundle | None) -> LoadedBundle | None:
        """Makes ``loaded`` the one that the next frame uses, and waits for the frames that still use the old one.

        Args:
            loaded: The new one; ``None`` makes the line wait.

        Returns:
            The old one, which nobody uses any more.
        """
        with self._changed:
            old, self._loaded = self._loaded, loaded
            self._good, self._broken = 0, ""
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(used is loaded for used in self._in_use))
            return old

    def wait(self, stop: threading.Event) -> bool:
        """Waits until there is something to use.

        Args:
            stop: Ends the wait.

        Returns:
            Whether there is.
        """
        with self._changed:
            while self._loaded is None and not stop.is_set():
                self._changed.wait(0.2)
            return self._loaded is not None

    @contextlib.contextmanager
    def use(self) -> Iterator[LoadedBundle | None]:
        """Gives what runs now, and keeps it open meanwhile."""
        with self._changed:
            used = self._loaded
            if used is not None:
                self._in_use.append(used)
        try:
            yield used
        finally:
            if used is not None:
                with self._changed:
                    self._give_back(used)
                    self._changed.notify_all()

    def _give_back(self, used: LoadedBundle) -> None:
        """One use less; by identity, as two bundles that are equal may be open at once."""
        del self._in_use[next(place for place, each in enumerate(self._in_use) if each is used)]

    def judged(self, loaded: LoadedBundle, reason: str) -> None:
        """Notes how a frame went, for the health check.

        Args:
            loaded: What judged it.
            reason: Empty, or why the engine failed.
        """
        with self._changed:
            if loaded is self._loaded:
                self._good += not reason
                self._broken = self._broken or reason
                self._changed.notify_all()

    def watch(self, frames: int, timeout_s: float) -> tuple[str, bool]:
        """Watches what runs now until it has judged so many frames, has failed, or the time is over.

        Args:
            frames: Enough good ones.
            timeout_s: The longest watch.

        Returns:
            Empty or why a frame failed; and whether there were enough good ones.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._good >= frames or bool(self._broken), timeout_s)
            broken, enough = self._broken, self._good >= frames
            if broken:
                self._good, self._broken = 0, ""  # another check begins anew
            return broken, enough
