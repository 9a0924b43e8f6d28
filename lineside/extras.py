"""Turning a missing package into an error that names the extra to install."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lineside_runtime.errors import MissingExtraError

_OURS = ("lineside", "lineside_")


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Wraps imports of host-side parts.

    Args:
        extra: Name of the extra of `lineside` that brings them.

    Raises:
        MissingExtraError: One of somebody else's packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(_OURS):
            raise
        raise MissingExtraError(
            f"the package {error.name!r} is not installed", action=f"Run: pip install 'lineside[{extra}]'"
        ) from error
