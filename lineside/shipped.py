"""`lineside.Session` and `lineside.Benchmark`: those of the runtime, which also take the name of a shipped bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lineside_models import zoo
from lineside_runtime import benchmark, session
from lineside_runtime.benchmark import Contestant
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config

__all__ = ["Benchmark", "Session"]


class Session(session.Session):
    """A bundle under a placement, such as ``Session("surface-12")``; see `lineside_runtime.session.Session`.

    Args:
        bundle: An opened bundle, its folder, a ``.lsb`` archive, or the name of a shipped bundle.
        config: Where it may run; `Config()` if ``None``.
        compute_share: The model's share of the compute of everything that runs on this box, 0 to 1.

    Raises:
        InputNotFoundError: There is no such bundle.
        LinesideError: As for the runtime's.
    """

    def __init__(
        self, bundle: Bundle | Path | str, config: Config | None = None, *, compute_share: float = 1.0
    ) -> None:
        super().__init__(_found(bundle), config, compute_share=compute_share)

    def reload(self, bundle: Bundle | Path | str | None = None, *, optimization_level: int | None = None) -> None:
        """As `lineside_runtime.session.Session.reload`; the bundle may be the name of a shipped one."""
        super().reload(None if bundle is None else _found(bundle), optimization_level=optimization_level)


class Benchmark(benchmark.Benchmark):
    """Compares bundles, such as ``Benchmark("surface-12")``; see `lineside_runtime.benchmark.Benchmark`.

    Args:
        bundle: A bundle, its folder, a ``.lsb``, the name of a shipped bundle, or a `Contestant`.
        config: Where the bundles may run; `Config()` if ``None``.
        against: What it is compared with.
        options: As for the runtime's.

    Raises:
        InputNotFoundError: There is no such bundle.
        ConfigError: A number out of range.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str | Contestant,
        config: Config | None = None,
        *,
        against: Sequence[Bundle | Path | str | Contestant] = (),
        **options: Any,
    ) -> None:
        super().__init__(_found(bundle), config, against=[_found(each) for each in against], **options)


def _found(given: Any) -> Any:
    return zoo.find(given) if isinstance(given, (str, Path)) else given
