"""Installed packages."""

from __future__ import annotations

import importlib.metadata


def installed_version(package: str) -> str:
    """Returns the version of an installed package; empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
