"""Where uploaded frames are stored: the hub's folder or any fsspec file system, named by hash."""

from __future__ import annotations

import shutil
from pathlib import Path

from lineside_hub.config import HubConfig
from lineside_hub.repository.chunks import ChunkPlace, FolderPlace, UrlPlace

NAME = "frames"


def frame_place(config: HubConfig) -> ChunkPlace:
    """Returns the place.

    Args:
        config: The hub's.

    Raises:
        ConfigError: ``frames.url`` names nothing usable.
        MissingExtraError: The package for its kind of URL is not installed.
    """
    largest = config.frames.frame_max_bytes
    if config.frames.url:
        return UrlPlace(config.frames.url, largest_bytes=largest)
    return FolderPlace(Path(config.folder) / NAME, largest_bytes=largest)


def free_bytes(config: HubConfig) -> int:
    """Returns the room on the disk of the hub's folder, where verdicts lie too."""
    return shutil.disk_usage(config.folder).free
