"""`lineside.Session`: the runtime's, which also takes the name of a shipped bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lineside_models import zoo
from lineside_runtime import session
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config

__all__ = ["Session"]


class Session(session.Session):
    """A bundle under a placement, such as ``Session("surface-12")``; see `lineside_runtime.session.Session`.

    Args:
        bundle: An opened bundle, its folder, a ``.lsb`` archive, or the name of a shipped bundle.
        config: Where it may run; `Config()` if ``None``.
        compute_share: The model's share of the compute of everything that runs on this box, 0 to 1.

    Raises:
        InputNotFoundError: There is no such bundle.
    """

    def __init__(
        self, bundle: Bundle | Path | str, config: Config | None = None, *, compute_share: float = 1.0
    ) -> None:
        super().__init__(found(bundle), config, compute_share=compute_share)

    def reload(
        self,
        bundle: Bundle | Path | str | None = None,
        *,
        optimization_level: int | None = None,
        variant: str | None = None,
    ) -> None:
        """As `lineside_runtime.session.Session.reload`; the bundle may be the name of a shipped one."""
        given = None if bundle is None else found(bundle)
        super().reload(given, optimization_level=optimization_level, variant=variant)


def found(given: Any) -> Any:
    """Returns the folder of a shipped bundle by its name; any other value unchanged."""
    return zoo.find(given) if isinstance(given, (str, Path)) else given
