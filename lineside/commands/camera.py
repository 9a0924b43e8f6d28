"""``lineside camera``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show, show_frames
from lineside.options import add_json, positive
from lineside_runtime.errors import ConfigError

if TYPE_CHECKING:
    from lineside_agent.cameras import FoundCamera
    from lineside_agent.config import CameraConfig


_RESULTS = {"passed": "pass", "failed": "fail", "not applicable": "skip"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    ls = actions.add_parser(
        "ls",
        help="list the cameras of this machine and its network",
        description="Lists the cameras with their settings for agent.toml. RTSP cameras do not announce themselves: "
        "try their address with `lineside camera test rtsp url=…`.",
    )
    add_json(ls)
    ls.set_defaults(run=run_ls)
    test = actions.add_parser(
        "test",
        help="take frames, measure rate, age and losses, and save the last one",
        description="Takes frames of a camera, prints their rate, their age and the losses, and writes the last one as "
        "a JPEG. Ends with 1 if there is none.",
    )
    _add_camera(test)
    test.add_argument("--frames", type=positive, default=50, metavar="N", help="default: %(default)s")
    test.add_argument("--out", type=Path, default=Path("camera.jpg"), metavar="FILE", help="default: %(default)s")
    test.set_defaults(run=run_test)
    conformance = actions.add_parser(
        "conformance",
        help="run the conformance checks on a camera",
        description="Runs the conformance checks on a camera. Ends with 1 if one failed. Please send us the output of "
        "--json for hardware that is marked as untested.",
    )
    _add_camera(conformance)
    conformance.add_argument("--unplug", action="store_true", help="also check a pulled cable; asks you to pull it")
    conformance.set_defaults(run=run_conformance)


def _add_camera(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "type",
        nargs="?",
        help="rtsp, aravis, picamera2, v4l2, plugin, video, folder, simulator or none; see `lineside camera ls`",
    )
    parser.add_argument("setting", nargs="*", help="KEY=VALUE as in [camera], such as url=rtsp://10.0.0.9/stream1")
    parser.add_argument("--config", type=Path, metavar="FILE", help="use the camera of this agent.toml instead")
    parser.add_argument("--name", default="", metavar="NAME", help="with --config: name of one of several cameras")
    add_json(parser)


def run_ls(options: argparse.Namespace) -> int:
    """Lists the cameras that are found."""
    from lineside_agent.cameras import find_cameras

    found = find_cameras()
    if options.json:
        print_json({"cameras": [one._asdict() for one in found if not one.problem], "absent": _absent(found)})
        return 0
    for one in found:
        if not one.problem:
            show(f"{one.type:<10} {one.settings:<28} {one.name}")
    for kind, problem in _absent(found).items():
        inform(f"{kind}: {problem}")
    return 0


def _absent(found: list[FoundCamera]) -> dict[str, str]:
    return {one.type: one.problem for one in found if one.problem}


def run_test(options: argparse.Namespace) -> int:
    from lineside_agent.cameras import open_camera
    from lineside_agent.cameras.probe import try_camera, write_jpeg

    camera = open_camera(_camera(options))
    tried, frame = try_camera(camera, frames=options.frames, progress=lambda count: show_frames(count, options.frames))
    write_jpeg(frame, options.out)
    if options.json:
        print_json({"tried": tried, "jpeg": options.out})
        return 0
    colour = "colour" if tried.colour else "grey"
    show(f"{tried.source}: {tried.width} x {tried.height}, {colour}, mean brightness {tried.brightness:g}")
    show(f"  first frame after {tried.first_ms:g} ms, then {tried.rate_hz:g} a second")
    show(f"  longest gap {tried.gap_max_ms:g} ms, age on arrival {tried.latency_ms:g} ms")
    show(f"  {tried.lost} of {tried.frames} lost")
    show(f"  {options.out}")
    return 0


def run_conformance(options: argparse.Namespace) -> int:
    from lineside_agent.cameras.conformance import CameraSubject, facts, run

    config = _camera(options)
    outcomes = []
    for outcome in run(CameraSubject(config, inform if options.unplug else None)):
        outcomes.append(outcome)
        text = f"{_RESULTS[outcome.verdict]:<5} {outcome.check} ({outcome.seconds:g} s)\n      {outcome.detail}"
        print(text, file=sys.stderr if options.json else sys.stdout)
    failed = any(outcome.verdict == "failed" for outcome in outcomes)
    if options.json:
        checks = [
            {"check": one.check, "result": _RESULTS[one.verdict], "note": one.detail, "seconds": one.seconds}
            for one in outcomes
        ]
        print_json({**facts(config), "passed": not failed, "checks": checks})
    return 1 if failed else 0


def _camera(options: argparse.Namespace) -> CameraConfig:
    from lineside_agent.cameras.probe import read_camera
    from lineside_agent.config import read_config

    if (options.config is None) == (options.type is None):
        raise ConfigError("the camera is ambiguous", expected="either a type with its settings, or --config")
    if options.config is not None:
        return _named(read_config(options.config).cameras, options.name)
    return read_camera(options.type, options.setting)


def _named(cameras: tuple[CameraConfig, ...], name: str) -> CameraConfig:
    """Returns one of a configuration's cameras by name."""
    found = [camera for camera in cameras if not name or camera.name == name]
    if len(found) != 1:
        names = ", ".join(camera.name for camera in cameras)
        raise ConfigError("the camera is ambiguous", expected=f"--name with one of {names}")
    return found[0]
