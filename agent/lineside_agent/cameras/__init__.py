"""Cameras, one kind a file; `registry` lists the kinds."""

from __future__ import annotations

from lineside_agent.cameras.base import Camera, EncodedFrame, Given, Grab, LiveCamera, LostFrame, Shot, opened
from lineside_agent.cameras.registry import find_cameras, open_camera

__all__ = [
    "Camera",
    "EncodedFrame",
    "Given",
    "Grab",
    "LiveCamera",
    "LostFrame",
    "Shot",
    "find_cameras",
    "open_camera",
    "opened",
]
