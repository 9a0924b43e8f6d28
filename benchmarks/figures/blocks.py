"""Every block: its name, the result files that it shows and its renderer."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

Renderer = Callable[..., str]
"""Takes the result files of a block, one argument each, and returns Markdown."""


@dataclass(frozen=True, slots=True)
class Block:
    """One table.

    Attributes:
        results: Names of the result files, without ``.json``.
        ages: The source line says whether the measured code has changed since.
    """

    name: str
    results: tuple[str, ...]
    render: Renderer
    ages: bool = True


_BLOCKS: dict[str, Block] = {}


def block(name: str, *results: str, ages: bool = True) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Registers a renderer.

    Args:
        results: That the renderer takes, in this order.
        ages: Say in the source line whether the measured code has changed. Not on a model card: it is part of a shipped
            bundle and changes only with a measurement.
    """

    def register(render: Callable[..., str]) -> Callable[..., str]:
        if name in _BLOCKS:
            raise ValueError(f"two blocks are called {name}")
        _BLOCKS[name] = Block(name, results, render, ages)
        return render

    return register


def blocks() -> dict[str, Block]:
    """Returns every block by name."""
    package = importlib.import_module(f"{__package__}.components")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return _BLOCKS
