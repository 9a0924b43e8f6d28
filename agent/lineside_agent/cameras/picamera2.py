"""Cameras on a Raspberry Pi's own connector, by picamera2 and libcamera. Untested on hardware.

https://datasheets.raspberrypi.com/camera/picamera2-manual.pdf
"""

from __future__ import annotations

from lineside_agent.cameras.base import FoundCamera
from lineside_agent.cameras.child import ChildCamera, Program, find_by
from lineside_agent.config.cameras import Picamera2CameraConfig

PROGRAM = Program("picamera2_.py", "picamera2", "python3-picamera2")


class Picamera2Camera(ChildCamera):
    """Gives what one camera sees."""

    def __init__(self, config: Picamera2CameraConfig) -> None:
        super().__init__(config.name or f"picamera2:{config.index}", PROGRAM, config)


def find() -> list[FoundCamera]:
    """Lists the cameras that libcamera knows."""
    return find_by(PROGRAM, "picamera2", lambda found: f"index = {found['index']}")
