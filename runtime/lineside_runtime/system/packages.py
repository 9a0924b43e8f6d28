"""What this process and its children can import."""

from __future__ import annotations

import importlib.metadata
import os
import sys


def installed_version(package: str) -> str:
    """Returns the version of an installed package; empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def child_environment() -> dict[str, str]:
    """Returns this process's environment, with which a child imports from the same places."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
