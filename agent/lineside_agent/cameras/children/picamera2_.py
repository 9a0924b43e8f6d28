"""Cameras on a Raspberry Pi's own connector by picamera2 and libcamera, in a process of their own.

``python3 picamera2_.py list`` prints what is found; with options as JSON instead it gives frames as `wire` says.
Written from the vendor's manual, untested on hardware: https://datasheets.raspberrypi.com/camera/picamera2-manual.pdf
(4.2 configurations and their formats, 5 and appendix C controls, 6.3 requests).
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from picamera2 import Picamera2
from wire import ALIVE_EVERY_S, Pipe

FORMAT = "RGB888"
"""Whose bytes lie in memory as blue, green, red: the manual's appendix A."""


def list_cameras() -> list[dict[str, str]]:
    """Returns the cameras that libcamera knows."""
    return [
        {"index": str(place), "name": str(info.get("Model", "")), "id": str(info.get("Id", ""))}
        for place, info in enumerate(Picamera2.global_camera_info())
    ]


def open_camera(options: dict[str, Any]) -> Any:
    """Opens a camera and applies the options."""
    camera = Picamera2(options["index"])
    main: dict[str, Any] = {"format": FORMAT}
    if options["width"] and options["height"]:
        main["size"] = (options["width"], options["height"])
    controls: dict[str, Any] = {}
    if options["exposure_us"] is not None or options["gain"] is not None:
        controls["AeEnable"] = False
    if options["exposure_us"] is not None:
        controls["ExposureTime"] = int(options["exposure_us"])
    if options["gain"] is not None:
        controls["AnalogueGain"] = float(options["gain"])
    if options["rate_hz"] is not None:
        frame_us = int(1e6 / options["rate_hz"])
        controls["FrameDurationLimits"] = (frame_us, frame_us)
    # queue=False: each request begins after the call, so that no frame is older than its trigger.
    camera.configure(camera.create_video_configuration(main=main, controls=controls, buffer_count=4, queue=False))
    camera.start()
    return camera


def stream_frames(pipe: Pipe, camera: Any) -> None:
    """Sends frames. libcamera does not report a loose ribbon cable, so the agent's own time-out counts."""
    while not pipe.ended.is_set():
        request = camera.capture_request()
        try:
            pixels, facts = request.make_array("main"), request.get_metadata()
        finally:
            request.release()
        # SensorTimestamp counts from the boot; the manual's appendix on metadata.
        age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(facts.get("SensorTimestamp", 0))
        captured_at_ns = time.time_ns() - (age_ns if "SensorTimestamp" in facts else 0)
        height, width = pixels.shape[:2]
        pipe.frame(pixels.tobytes(), "BGR8", height, width, captured_at_ns)
    camera.close()


def main() -> None:
    """Lists the cameras, or streams the frames of one."""
    if sys.argv[1] == "list":
        sys.stdout.write(json.dumps(list_cameras()))
        return
    pipe, options = Pipe(), json.loads(sys.argv[1])
    opening = threading.Event()
    threading.Thread(target=_report_alive, args=(pipe, opening), daemon=True).start()
    try:
        camera = open_camera(options)
    except (RuntimeError, IndexError, ValueError) as error:
        pipe.failed(f"can't be opened: {error}")
        return
    finally:
        opening.set()
    stream_frames(pipe, camera)


def _report_alive(pipe: Pipe, ended: threading.Event) -> None:
    """Reports life while a camera is opened: on a slow card that takes libcamera seconds."""
    while not ended.wait(ALIVE_EVERY_S):
        pipe.alive()


main()
