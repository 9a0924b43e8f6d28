"""Keeping what one executable does on chosen cores, whatever the engine offers."""

from __future__ import annotations

from collections.abc import Mapping

from lineside_runtime.affinity import allowed
from lineside_runtime.affinity import on_cores as on_cores
from lineside_runtime.backend import Executable, OperatorTime
from lineside_runtime.errors import ConfigError
from lineside_runtime.tensors import Array


def check_cores(cores: tuple[int, ...]) -> None:
    """Refuses cores that this process may not use.

    Raises:
        ConfigError: One of them isn't there, or was taken from the process.
    """
    here = allowed()
    if not here.issuperset(cores):
        raise ConfigError("stage_cores", expected=f"some of {sorted(here)}", actual=list(cores))


class OnCores(Executable):
    """An executable whose calls run on some cores only; it was loaded on them, so its own threads are there too."""

    def __init__(self, inner: Executable, cores: tuple[int, ...]) -> None:
        self._inner = inner
        self._cores = cores
        self.shortfall = inner.shortfall
        self.attach(inner.backend, inner.device)

    def abandon(self) -> bool:
        """Ends what runs on it, where the engine can."""
        return self._inner.abandon()

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with on_cores(self._cores):
            return self._inner.run(inputs)

    def _operators(self) -> tuple[OperatorTime, ...]:
        return self._inner.operators()

    def _close(self) -> None:
        self._inner.close()
