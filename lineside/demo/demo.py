"""`lineside demo`: the whole line on one page, from a float model to results at the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from lineside.demo import bundles, count, source
from lineside.demo.charts import ChartMark
from lineside.demo.console import DemoConsole
from lineside.demo.line import DemoLine
from lineside.demo.options import DemoOptions
from lineside.demo.report import DemoOutcome, ReportData, write_report
from lineside_converters.optimizer import OptimizeResult
from lineside_models import zoo
from lineside_models.frame import Frame
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import InputError
from lineside_runtime.files import write_atomic

CALIBRATION_FRAMES = 24
"""At most: a folder may have fewer photos."""

SECOND_PUSH_AT = 0.15
BROKER_DIES_AT = 0.45
BAD_PUSH_AT = 0.60
"""Shares of the frames after which these events happen."""

MARK = ".lineside-demo"
"""A file that marks a folder of the demo, which the next demo may empty."""


def run_demo(options: DemoOptions) -> DemoOutcome:
    """Runs the demo.

    Returns:
        The counts, figures and files.

    Raises:
        LinesideError: A step failed; the logs of the processes are in ``OUT/logs``.
    """
    out = prepare_folder(options.out)
    progress = DemoConsole()
    frames = source.choose(options, out / "frames")
    source.write_list(frames, out / "frames.json")
    progress.console.print(f"[bold]lineside demo[/]: {frames.frames} frames, {frames.title}")
    with progress.step("Compress the float detector to INT8 and check it on the same frames"):
        first, second, bad = _make_bundles(options, frames, out / "bundles", progress)
    with DemoLine(out, broker_url=options.broker) as line:
        with progress.step("Start broker, hub and agent; sign and push the float model"):
            line.start(frames.camera, progress)
            line.push(first, progress)
            line.wait_active(bundles.VERSIONS[0], progress)
        with progress.step("Inspect, while the INT8 model and a broken one are pushed and the broker dies"):
            _inspect(line, frames.frames, second.bundle, bad, progress)
        device = line.device_status()
    with progress.step("Count the results at the hub, and write the report"):
        outcome = _finish(out, frames, second, device, line.marks)
    _tidy(out, keep=options.keep)
    return outcome


def prepare_folder(out: Path) -> Path:
    """Makes the demo's folder, or empties that of an earlier demo; returns its path from the root.

    Raises:
        InputError: It holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise InputError(
            f"{out} is not empty and not a demo's folder",
            expected="a new or empty folder, or that of an earlier demo",
            action="Give another folder with --out.",
        )
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARK).touch()
    return out.resolve()


def _make_bundles(
    options: DemoOptions, frames: source.DemoSource, folder: Path, progress: DemoConsole
) -> tuple[Bundle, OptimizeResult, Bundle]:
    folder.mkdir()
    first, second, third = bundles.VERSIONS
    progress.report(f"bundle {first}: the float model as it is shipped")
    whole = bundles.copy_as(open_bundle(zoo.path("surface-12-float")), folder / first, version=first)
    given = _calibration(options, frames)
    progress.report(f"bundle {second}: its INT8 form, calibrated and measured on {len(given)} frames")
    compressed = bundles.compress(
        whole.path,
        folder / second,
        version=second,
        frames=given,
        on_progress=progress.report,
    )
    progress.report(f"bundle {third}: weights shuffled on purpose, must be refused")
    return whole, compressed, bundles.break_weights(compressed.bundle, folder / third, version=third)


def _calibration(options: DemoOptions, frames: source.DemoSource) -> list[Frame]:
    if frames.kind == "folder":
        return source.photos(Path(frames.camera["path"]), CALIBRATION_FRAMES)
    # The simulator's stream is inspected; calibration uses frames of another seed.
    return list(source.simulated(options.seed + 1_000_000, CALIBRATION_FRAMES))


def _inspect(line: DemoLine, total: int, second: Bundle, bad: Bundle, progress: DemoConsole) -> None:
    with progress.bar("results at the hub", total) as bar:
        line.wait_synced(SECOND_PUSH_AT, total, bar)
        line.push(second, progress)
        line.wait_active(second.manifest.version, progress)
        line.wait_synced(BROKER_DIES_AT, total, bar)
        line.restart_broker(progress)
        line.wait_synced(BAD_PUSH_AT, total, bar)
        line.push(bad, progress)
        line.wait_refused(bad.manifest.version, progress)
        line.wait_synced(1.0, total, bar)


def _finish(
    out: Path, frames: source.DemoSource, compressed: OptimizeResult, device: dict[str, Any], marks: list[ChartMark]
) -> DemoOutcome:
    count.copy_database(out / "hub" / "hub.db", out / "hub.db")
    results = count.rows(out / "hub.db")
    timeline = count.events(out / "hub.db")
    counts = count.count(results, frames.frames, frames.part_ids)
    outcome = DemoOutcome(
        **msgspec.structs.asdict(counts),
        activated=list(dict.fromkeys(event.bundle for event in timeline if event.kind == "active")),
        rolled_back=[
            {"bundle": event.bundle, "code": event.code, "reason": event.detail}
            for event in timeline
            if event.kind == "rolled_back"
        ],
        float=_figures(compressed.float_figures),
        int8=_figures(compressed.int8_figures),
        accuracy_on=compressed.report.accuracy_on,
        requested_device=str(device.get("requested_device", "")),
        used_device=str(device.get("used_device", "")),
        broker_restarted=bool(marks),
        frames_by_bundle=_by_bundle(results),
        hub_db=str(out / "hub.db"),
        report=str(out / "report.html"),
        source=frames.title,
    )
    pictures = _archive(out / "agent")
    write_report(ReportData(out=out, outcome=outcome, results=results, events=timeline, marks=marks, pictures=pictures))
    write_atomic(out / "result.json", msgspec.json.format(msgspec.json.encode(outcome), indent=1))
    return outcome


def _archive(agent: Path) -> dict[int, Path]:
    """Finds the frames that the agent kept, by their sequence numbers."""
    return {int(path.stem): path for path in (agent / "images").rglob("*.png")}


def _figures(figures: Any) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(figures)
    return {key: value for key, value in made.items() if value is not None}


def _by_bundle(results: list[count.DemoRow]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in results:
        found[row.bundle] = found.get(row.bundle, 0) + 1
    return found


def _tidy(out: Path, *, keep: bool) -> None:
    """Deletes everything but the report, its pictures, the list of frames, the database and the logs."""
    if keep:
        return
    for name in ("hub", "agent", "bundles", "frames"):
        shutil.rmtree(out / name, ignore_errors=True)
