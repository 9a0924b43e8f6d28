"""GigE Vision and USB3 Vision cameras by Aravis, in a process of their own under the system's Python.

``python3 aravis_.py list`` prints what is found; ``python3 aravis_.py '{"address": …}'`` gives frames as `wire` says.
Aravis: https://aravisproject.github.io/aravis/aravis-stable/
"""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

import gi

gi.require_version("Aravis", "0.8")
from gi.repository import Aravis, GLib  # noqa: E402
from wire import ENCODINGS, Pipe  # noqa: E402

BUFFERS = 8
"""Images that the driver may fill while one is sent."""

POP_S = 0.1
"""Longest wait for one image, before the end is checked."""

CHECK_EVERY_S = 0.5

BOOTSTRAP_REGISTER = 0x0000
"""A GigE camera's version register: whoever answers is there."""

FORMATS = {
    Aravis.PIXEL_FORMAT_MONO_8: "Mono8",
    Aravis.PIXEL_FORMAT_BGR_8_PACKED: "BGR8",
    Aravis.PIXEL_FORMAT_RGB_8_PACKED: "RGB8",
    Aravis.PIXEL_FORMAT_BAYER_RG_8: "BayerRG8",
    Aravis.PIXEL_FORMAT_BAYER_GR_8: "BayerGR8",
    Aravis.PIXEL_FORMAT_BAYER_GB_8: "BayerGB8",
    Aravis.PIXEL_FORMAT_BAYER_BG_8: "BayerBG8",
}


def list_cameras() -> list[dict[str, str]]:
    """Returns the cameras that answer."""
    Aravis.update_device_list()
    return [
        {
            "address": Aravis.get_device_address(index) or Aravis.get_device_id(index),
            "name": f"{Aravis.get_device_vendor(index)} {Aravis.get_device_model(index)}",
            "serial": Aravis.get_device_serial_nbr(index),
            "protocol": Aravis.get_device_protocol(index),
        }
        for index in range(Aravis.get_n_devices())
    ]


def open_camera(options: dict[str, Any]) -> Any:
    """Opens a camera and applies the options, in the order of their dependencies."""
    camera = Aravis.Camera.new(options["address"] or None)
    if camera.is_gv_device() and not (camera.get_device().is_controller() or camera.get_device().take_control()):
        raise ValueError("another program controls the camera, or did until a few seconds ago")
    if options["pixel_format"]:
        camera.set_pixel_format_from_string(options["pixel_format"])
    encoding_of(camera.get_pixel_format(), camera)  # reports an unknown format before anything else
    if options["width"] and options["height"]:
        camera.set_region(0, 0, options["width"], options["height"])
    if options["exposure_us"] is not None:
        camera.set_exposure_time_auto(Aravis.Auto.OFF) if camera.is_exposure_auto_available() else None
        camera.set_exposure_time(options["exposure_us"])
    if options["gain_db"] is not None:
        camera.set_gain_auto(Aravis.Auto.OFF) if camera.is_gain_auto_available() else None
        camera.set_gain(options["gain_db"])
    if options["trigger"]:
        camera.set_trigger(options["trigger"])
    elif options["rate_hz"] is not None and camera.is_frame_rate_available():
        camera.set_frame_rate(options["rate_hz"])
    if camera.is_gv_device():
        camera.gv_auto_packet_size()
    return camera


def encoding_of(pixel_format: int, camera: Any) -> str:
    """Returns the pipe's name of a pixel format; raises `ValueError` for one that is not supported."""
    encoding = FORMATS.get(pixel_format)
    if encoding is None:
        own = camera.get_pixel_format_as_string()
        raise ValueError(f"pixels cannot be read as {own}: set pixel_format to one of {', '.join(ENCODINGS)}")
    return encoding


def stream_frames(pipe: Pipe, camera: Any, options: dict[str, Any]) -> None:
    """Sends frames until the camera is lost."""
    stream = camera.create_stream(None, None)
    for _ in range(BUFFERS):
        stream.push_buffer(Aravis.Buffer.new_allocate(camera.get_payload()))
    camera.start_acquisition()
    last_s = time.monotonic()
    while not pipe.ended.is_set():
        buffer = stream.timeout_pop_buffer(int(POP_S * 1e6))
        if buffer is not None:
            last_s = time.monotonic()
            send(pipe, buffer, camera)
            stream.push_buffer(buffer)
            continue
        if options["trigger"]:
            if time.monotonic() - last_s > CHECK_EVERY_S:
                check(camera)  # no frame is no sign here: perhaps there was no part
                last_s = time.monotonic()
        elif time.monotonic() - last_s > options["timeout_s"]:
            pipe.failed(f"nothing came for {options['timeout_s']:g} s")
            return
        pipe.alive()
    camera.stop_acquisition()


def send(pipe: Pipe, buffer: Any, camera: Any) -> None:
    """Sends one buffer, or that its image was lost."""
    captured_at_ns = buffer.get_system_timestamp() or time.time_ns()
    if buffer.get_status() != Aravis.BufferStatus.SUCCESS:
        pipe.lost(f"damaged on its way: {buffer.get_status().value_nick}", captured_at_ns)
        return
    encoding = encoding_of(buffer.get_image_pixel_format(), camera)
    height, width = buffer.get_image_height(), buffer.get_image_width()
    size = height * width * (3 if encoding in ("BGR8", "RGB8") else 1)
    pipe.frame(memoryview(buffer.get_data())[:size], encoding, height, width, captured_at_ns)


def check(camera: Any) -> None:
    """Raises if the camera doesn't answer."""
    if camera.is_gv_device():
        camera.get_device().read_register(BOOTSTRAP_REGISTER)


def main() -> None:
    """Lists the cameras, or streams the frames of one."""
    if sys.argv[1] == "list":
        sys.stdout.write(json.dumps(list_cameras()))
        return
    pipe, options = Pipe(), json.loads(sys.argv[1])
    try:
        camera = open_camera(options)
        stream_frames(pipe, camera, options)
        del camera  # which releases its control, before the heartbeat's time-out does
        gc.collect()
    except (GLib.Error, ValueError) as error:
        pipe.failed(getattr(error, "message", "") or str(error))


main()
