"""Add test-time augmentation to a detector's bundle, if it raises mAP: inference at the frame and its mirror image.

It costs the time of two frames, so the bundle keeps the plain variant: a device that is throttled or late uses
that one, as does whoever asks for it by name or by level.

For parts whose mirror image is as good or as bad as they are; not for print.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import onnx

from lineside_converters.bundles.packaging import (
    CARD_NAME,
    THRESHOLDS_HEADING,
    build_bundle,
    check_place,
    golden_frame,
)
from lineside_converters.gates.checks import ratio_of, time_together
from lineside_converters.gates.loaded_models import execution_place, open_model
from lineside_converters.gates.statistics import Drop
from lineside_converters.graph.mirror import SUFFIX, check_mirrorable, is_mirrored, mirror_graph
from lineside_converters.reports.report import OptimizationReport, read_report
from lineside_converters.reports.report_parts import VariantFigures
from lineside_converters.tasks import DetectionTask
from lineside_converters.thresholds.frames import FrameRequest, FrameSet, gather_frames
from lineside_converters.thresholds.scoring import find
from lineside_models.preprocess import prepare
from lineside_runtime.bundle import Bundle, Manifest, Variant, time_now
from lineside_runtime.config import Config
from lineside_runtime.errors import AccuracyGateError, ConfigError, DatasetError, UnsupportedModelError
from lineside_runtime.progress import CountListener
from lineside_runtime.session import Session

ENGINE = "ort"
"""Engine that measures the gain of the augmentation here."""

TIMED_ROUNDS = 12

SEED = 20
"""Seed of the interval."""

CARD_MARK = "## Test-time augmentation"


@dataclasses.dataclass(frozen=True, slots=True)
class MirroredBundle:
    """Result of `add_mirrored`.

    Attributes:
        bundle: The new bundle, the augmented variant in front.
        frames: Description of the frames that it was judged on.
        drop: Drop of mAP@0.5; negative, as the metric rises.
        slowdown: Time of a frame in terms of the plain variant's.
    """

    bundle: Bundle
    variant: str
    frames: str
    drop: Drop
    slowdown: float


def add_mirrored(
    bundle: Bundle,
    request: FrameRequest,
    out: Path,
    *,
    version: str = "",
    overwrite: bool = False,
    on_progress: CountListener = lambda now, of: None,
) -> MirroredBundle:
    """Writes a new version of a detector's bundle with test-time augmentation, if that finds more.

    Args:
        bundle: A detector's; it stays as it is.
        request: Frames with boxes that it is judged on, best those that training held out.
        version: Version of the new bundle; the old one's with its last number one higher if empty.

    Raises:
        UnsupportedModelError: Its outputs can't be turned back, or it has no ONNX variant with a free batch.
        ConfigError: It has test-time augmentation already; or its speed is unproven and there is no lower level for the
            slower variant.
        DatasetError: The data has no boxes.
        AccuracyGateError: The mirror image doesn't raise mAP@0.5: there is no new bundle.
    """
    version = check_place(bundle, out, version=version, overwrite=overwrite)
    old = bundle.manifest
    check_mirrorable(old)
    once = _plain_variant(old)
    frames = gather_frames(bundle, request)
    if not frames.boxed:
        raise DatasetError("mAP is judged on boxes", expected="data with boxes", actual=frames.description)
    twice, manifest = _with_mirrored(old, once, version)
    with tempfile.TemporaryDirectory(prefix="lineside-mirror-") as folder:
        model = Path(folder, "model.onnx")
        onnx.save(mirror_graph(onnx.load(bundle.file(once.file)), old), model)
        models = {**{variant.file: bundle.file(variant.file) for variant in old.variants}, twice.file: model}
        report, card = read_report(bundle.path), (bundle.path / CARD_NAME).read_text()
        draft = build_bundle(
            Path(folder, "draft"),
            manifest=msgspec.structs.replace(manifest, variants=(twice,)),
            models=models,
            report=report,
            card=card,
        )
        drop = _judged(bundle, once, draft, frames, on_progress)
        figures, slowdown = _figures(old, once, twice, (bundle.file(once.file), model), drop, frames)
        made = build_bundle(
            out,
            manifest=manifest,
            models=models,
            report=_mirrored_report(report, manifest, figures),
            card=_card(card, figures),
            files=_other_files(bundle),
            overwrite=overwrite,
        )
    return MirroredBundle(made, twice.name, frames.description, drop, slowdown)


def _other_files(bundle: Bundle) -> dict[str, Path]:
    """Returns the files that the new bundle takes over, such as ``decision.json``; golden input is recorded again."""
    golden = bundle.manifest.golden
    recorded = () if golden is None else (golden.frame, *golden.outputs.values())
    return {name: bundle.file(name) for name in bundle.manifest.files.keys() - set(recorded)}


def _plain_variant(manifest: Manifest) -> Variant:
    if any(map(is_mirrored, manifest.variants)):
        raise ConfigError("bundle", expected="one without test-time augmentation", actual=f"{manifest.identity}")
    variant = next((one for one in manifest.variants if one.format == "onnx" and not one.stages), None)
    if variant is None:
        raise UnsupportedModelError(
            f"{manifest.identity} has no ONNX variant",
            expected="a variant of format onnx",
            actual=[one.name for one in manifest.variants],
        )
    if manifest.speed == "unproven" and not variant.level:
        raise ConfigError(
            "bundle",
            expected="one whose speed is measured, or of level 1 and more",
            actual=f"{manifest.identity}: {manifest.speed}, level {variant.level}",
            action="Devices take the faster variant of a level. Optimize it for a target that is here.",
        )
    return variant


def _with_mirrored(old: Manifest, once: Variant, version: str) -> tuple[Variant, Manifest]:
    """Returns the variant with test-time augmentation, and the manifest that lists it first."""
    name = f"{once.name}{SUFFIX}"
    level = max(0, once.level - 1)  # whoever asks for more speed by level gets the plain variant
    twice = msgspec.structs.replace(once, name=name, file=f"{name}/model.onnx", level=level)
    manifest = msgspec.structs.replace(
        old,
        version=version,
        variants=(twice, *old.variants),
        speed="by_level" if old.speed == "unproven" else old.speed,  # or devices would take the plain one
        golden=None,
        files={},
        created_at=time_now(),
    )
    return twice, manifest


def _judged(bundle: Bundle, once: Variant, twice: Bundle, frames: FrameSet, on_progress: CountListener) -> Drop:
    alone = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, variants=(once,)), bundle.digest)
    found = []
    for number, one in enumerate((alone, twice)):
        with Session(one, Config(threads=1, engines=(ENGINE,))) as session:
            found.append(find(session, frames, on_progress=_both(on_progress, number)))
    (truths, before), (_, after) = found
    drop = DetectionTask(bundle.manifest.labels).drop(truths, before, after, seed=SEED)
    if drop.drop >= 0:
        raise AccuracyGateError(
            "inference at the mirror image finds no more",
            expected="a higher mAP@0.5",
            actual=f"{drop.before:.4f} → {drop.after:.4f} on {frames.description}",
            action="Keep the bundle as it is; it may be that a mirror image of these parts is no such part.",
        )
    return drop


def _both(on_progress: CountListener, number: int) -> CountListener:
    """Counts both inferences over all frames."""
    return lambda now, of: on_progress(number * of + now, 2 * of)


def _figures(
    manifest: Manifest, once: Variant, twice: Variant, models: tuple[Path, Path], drop: Drop, frames: FrameSet
) -> tuple[VariantFigures, float]:
    """Returns the report's entry of the augmented variant, and its time in terms of the plain one's."""
    ms, slowdown = _timed(manifest, once, *models)
    figures = VariantFigures(
        name=twice.name,
        engine=ENGINE,
        precision=twice.precision,
        latency_ms=ms,
        size_bytes=models[1].stat().st_size,
        kept=True,
        why=_why(drop, slowdown, frames),
    )
    return figures, slowdown


def _timed(manifest: Manifest, variant: Variant, once: Path, twice: Path) -> tuple[float, float]:
    """Returns the milliseconds of a golden frame with augmentation, and that in terms of the plain variant's."""
    place = execution_place(ENGINE, "cpu")
    feed = {manifest.preprocess.input: prepare(golden_frame().image, manifest.preprocess)[0]}
    with (
        open_model(once, place, manifest, precision=variant.precision, threads=1) as run_once,
        open_model(twice, place, manifest, precision=variant.precision, threads=1) as run_twice,
    ):
        times = time_together({"once": run_once, "twice": run_twice}, [feed], rounds=TIMED_ROUNDS)
    return float(np.median(times["twice"].samples_ms)), ratio_of(times["twice"], times["once"])


def _why(drop: Drop, slowdown: float, frames: FrameSet) -> str:
    return (
        f"infers the frame and its mirror image: mAP@0.5 {drop.before:.4f} → {drop.after:.4f} "
        f"({drop.confidence:.0%} interval of the gain {-drop.high:+.4f} to {-drop.low:+.4f}) on {frames.description}, "
        f"in {slowdown:.2f} × the time"
    )


def _card(card: str, figures: VariantFigures) -> str:
    """Inserts the section in front of that on thresholds, which is written anew where they are fitted again."""
    before, mark, thresholds = card.partition(THRESHOLDS_HEADING)
    return f"{before.rstrip()}\n\n{CARD_MARK}\n\n{figures.name}: {figures.why}.\n\n{mark}{thresholds}".rstrip() + "\n"


def _mirrored_report(report: OptimizationReport, manifest: Manifest, figures: VariantFigures) -> OptimizationReport:
    note = f"{figures.name} {figures.why}; the figures of accuracy and speed above are without it"
    return msgspec.structs.replace(
        report,
        model=manifest.identity,
        made_at=manifest.created_at,
        variants=(figures, *report.variants),
        notes=(*report.notes, note),
    )
