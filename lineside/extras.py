"""Turn a missing package into an error that names the extra to install."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lineside_runtime.errors import MissingExtraError

_OWN_PACKAGES = ("lineside", "lineside_")


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Wraps imports of packages that an extra of `lineside` installs.

    Raises:
        MissingExtraError: A package of another distribution is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(_OWN_PACKAGES):
            raise
        raise MissingExtraError(
            f"the package {error.name!r} is not installed", action=f"Run: pip install 'lineside[{extra}]'"
        ) from error
