"""Cameras on a Raspberry Pi's own connector, by picamera2 and libcamera. Untested on hardware: nobody here has one.

https://datasheets.raspberrypi.com/camera/picamera2-manual.pdf
"""

from __future__ import annotations

from lineside_agent.cameras.child import ChildCamera, Program
from lineside_agent.config import Picamera2CameraConfig

PROGRAM = Program("picamera2_.py", "picamera2", "python3-picamera2")


class Picamera2Camera(ChildCamera):
    """Gives what one camera sees.

    Args:
        config: Its table.
    """

    def __init__(self, config: Picamera2CameraConfig) -> None:
        options = {
            "index": config.index,
            "width": config.width,
            "height": config.height,
            "exposure_us": config.exposure_us,
            "gain": config.gain,
            "rate_hz": config.rate_hz,
        }
        super().__init__(
            config.name or f"picamera2:{config.index}",
            PROGRAM,
            options,
            timeout_s=config.timeout_s,
            rate_hz=config.rate_hz,
            same_image_max_s=config.same_image_max_s,
        )
