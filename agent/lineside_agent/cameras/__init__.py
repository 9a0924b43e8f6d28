"""Cameras, one kind a file; `registry` lists the kinds."""

from __future__ import annotations

from lineside_agent.cameras.base import (
    Camera,
    EncodedFrame,
    FoundCamera,
    Grab,
    LiveCamera,
    LostFrame,
    RawShot,
    Shot,
    decoded,
)
from lineside_agent.cameras.registry import find_cameras, open_camera

__all__ = [
    "Camera",
    "EncodedFrame",
    "FoundCamera",
    "Grab",
    "LiveCamera",
    "LostFrame",
    "RawShot",
    "Shot",
    "conformance",
    "decoded",
    "find_cameras",
    "open_camera",
    "opencv",
    "probe",
    "simulator",
]
