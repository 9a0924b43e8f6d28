"""An RTSP server by GStreamer; run by the system's Python: ``python3 rtsp_server.py PORT``."""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

ENCODER = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 pt=96"


def main() -> None:
    Gst.init(None)
    factory = GstRtspServer.RTSPMediaFactory()
    picture = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 ! videoconvert"
    factory.set_launch(f"( {picture} ! {ENCODER} )")
    factory.set_shared(True)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    server.get_mount_points().add_factory("/line", factory)
    server.attach(None)
    print("listens", flush=True)
    GLib.MainLoop().run()


main()
