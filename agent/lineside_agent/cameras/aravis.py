"""GigE Vision and USB3 Vision (GenICam) cameras by Aravis."""

from __future__ import annotations

from lineside_agent.cameras.child import ChildCamera, Program
from lineside_agent.config import AravisCameraConfig

PROGRAM = Program("aravis_.py", "gi", "gir1.2-aravis-0.8 python3-gi")


class AravisCamera(ChildCamera):
    """Gives what one camera sends; an image that lost packets on its way is a lost frame with its reason.

    Args:
        config: Its table.
    """

    def __init__(self, config: AravisCameraConfig) -> None:
        options = {
            "address": config.address,
            "pixel_format": config.pixel_format,
            "width": config.width,
            "height": config.height,
            "exposure_us": config.exposure_us,
            "gain_db": config.gain_db,
            "trigger": config.trigger,
            "rate_hz": config.rate_hz,
            "timeout_s": config.timeout_s,
        }
        super().__init__(
            config.name or f"aravis:{config.address or 'first'}",
            PROGRAM,
            options,
            timeout_s=config.timeout_s,
            rate_hz=config.rate_hz,
            same_image_max_s=config.same_image_max_s,
            must_show=not config.trigger,
        )
