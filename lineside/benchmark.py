"""`lineside.Benchmark`: the runtime's, which also takes the name of a shipped bundle.

Not beside `Session`: who only infers does not import what measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lineside.shipped import found
from lineside_runtime import benchmark
from lineside_runtime.benchmark import Contestant
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config

__all__ = ["Benchmark"]


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
        super().__init__(found(bundle), config, against=[found(each) for each in against], **options)
