"""GigE Vision and USB3 Vision (GenICam) cameras by Aravis."""

from __future__ import annotations

from lineside_agent.cameras.base import FoundCamera
from lineside_agent.cameras.child import ChildCamera, Program, find_by
from lineside_agent.config.cameras import AravisCameraConfig

PROGRAM = Program("aravis_.py", "gi", "gir1.2-aravis-0.8 python3-gi")


class AravisCamera(ChildCamera):
    """Gives what one camera sends; an image that lost packets on its way is a lost frame with its reason.

    The first frame of a stream may be damaged because its leader packet came before the stream was open, or because
    packets of the stream before still arrive; Aravis calls it ``payload-not-supported``.
    """

    def __init__(self, config: AravisCameraConfig) -> None:
        super().__init__(
            config.name or f"aravis:{config.address or 'first'}",
            PROGRAM,
            config,
            free_running=not config.trigger,
        )


def find() -> list[FoundCamera]:
    """Lists the cameras that answer."""
    return find_by(PROGRAM, "aravis", lambda found: f'address = "{found["address"]}"')
