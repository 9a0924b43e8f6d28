"""The page of an evaluation: its JSON for people, with the worst frames drawn; no script, no other file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from lineside_converters.data.calibration_data import annotated_frame
from lineside_converters.data.reference_frames import load_compared
from lineside_converters.evaluation.bundle_runner import judge
from lineside_converters.evaluation.combination import CombinedInspector
from lineside_converters.evaluation.figures import CostPoint, PrecisionRecallCurve, WorstFrame, escapes_of, sources_of
from lineside_converters.reports.frames import SHOWN_MAX, jpeg_of
from lineside_converters.reports.templating import between, render
from lineside_models.datasets.masks import load_masks
from lineside_models.draw import colour_of, overlay_heat
from lineside_models.frame import Frame, UInt8Array
from lineside_models.inspection import Detection
from lineside_models.inspector import Inspector
from lineside_models.postprocess import select
from lineside_models.postprocess.decoders.segmentation import pixel_labels
from lineside_models.preprocess import prepare
from lineside_models.vision.heat import heat_of
from lineside_models.vision.images import read_image
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, PartNotFoundError, RegistrationError
from lineside_runtime.files import ensure_writable, write_atomic
from lineside_runtime.reports.svg import WIDTH, Plot, dot, svg, text
from lineside_runtime.session import Session

TASKS = ("anomaly", "classification", "combination", "detection", "segmentation")
"""That the page knows how to show."""


@dataclasses.dataclass(frozen=True, slots=True)
class FramePicture:
    """Pictures of one of the worst frames.

    Attributes:
        truth_jpeg: The frame with what is there, base64.
        found_jpeg: The frame with what was found, base64.
    """

    row: WorstFrame
    truth_jpeg: str
    found_jpeg: str


def write_page(path: Path, result: Any, pictures: Sequence[FramePicture] = ()) -> None:
    """Writes the page of an evaluation, whole or not at all.

    Args:
        result: What a judge gave.
    """
    ensure_writable(path)
    write_atomic(path, page(result, pictures).encode())


def page(result: Any, pictures: Sequence[FramePicture] = ()) -> str:
    """Returns the page."""
    values = msgspec.to_builtins(result)
    if values["task"] not in TASKS:
        raise ConfigError("the page of an evaluation", expected=" or ".join(TASKS), actual=values["task"], action="")
    curves = getattr(result, "curves", {})
    return render(
        "evaluation.html.j2",
        title=f"{values['bundle']} on {values['dataset']}, fold {values['fold']}",
        r=values,
        figures=_tiles(values),
        costs=cost_curve(result.good_or_bad.cost_curve) if result.good_or_bad.cost_curve else "",
        curves=precision_recall(curves, {name: result.per_class[name].ap50 for name in curves}) if curves else "",
        pictures=pictures,
        sources=sources_of,
    )


def draw_worst(session: Session, root: Path, fold: str, worst: Sequence[WorstFrame]) -> list[FramePicture]:
    """Draws the first few of the worst frames, truth beside find.

    Args:
        session: Holds the bundle that was judged.
        root: Root of the data set.
        worst: The worst first.
    """
    manifest = session.manifest
    dataset = load_compared(root, fold, manifest)
    whole = manifest.task == "classification"
    by_path = {sample.path: sample for sample in dataset.samples}
    made = []
    for row in worst[:SHOWN_MAX]:
        truth = annotated_frame(by_path[root / row.file], manifest.labels, 0, dataset)
        image, boxes = truth.frame.image, zip(truth.labels.tolist(), truth.boxes.tolist(), strict=not whole)
        there = [Detection(type=manifest.labels[label], score=1.0, box=tuple(box)) for label, box in boxes]
        found = select(judge(session, truth.frame).candidates, manifest.postprocess, manifest.labels)
        made.append(FramePicture(row, jpeg_of(image, there, whole), jpeg_of(image, found, whole)))
    return made


def draw_masks(session: Session, root: Path, fold: str, worst: Sequence[WorstFrame]) -> list[FramePicture]:
    """Draws the first few of the worst frames of a segmenter, mask beside answer, as a tint on the frame.

    Args:
        session: Holds the bundle that was judged.
        root: Root of the data set.
        worst: The worst first.
    """
    manifest, data = session.manifest, load_masks(root, fold)
    by_path = {sample.path: sample for sample in data.samples}
    made = []
    for row in worst[:SHOWN_MAX]:
        sample = by_path[root / row.file]
        image = read_image(sample.path)
        tensor, letterbox = prepare(image, manifest.preprocess)
        outputs = session.predict({manifest.preprocess.input: tensor})
        found = pixel_labels(outputs, manifest.postprocess.params, [letterbox])[0]
        pair = (tinted(image, data.mask_of(sample), data.labels), tinted(image, found, manifest.labels))
        made.append(FramePicture(row, *(jpeg_of(each, (), True) for each in pair)))
    return made


def draw_heat(session: Session, root: Path, _fold: str, worst: Sequence[WorstFrame]) -> list[FramePicture]:
    """Draws the first few parts with a wrong verdict of a model of good parts, frame beside heat map.

    Args:
        session: Holds the bundle that was judged.
        root: Root of the data set.
        worst: The worst first.
    """
    inspector = Inspector(session, batch_size=1)
    made = []
    for row in worst[:SHOWN_MAX]:
        image = _coloured(read_image(root / row.file))
        try:
            heat = overlay_heat(image, heat_of(inspector, [Frame(image=image, source=row.file)]))
        except RegistrationError:
            heat = image
        made.append(FramePicture(row, jpeg_of(image, (), True), jpeg_of(heat, (), True)))
    return made


def draw_combined(inspector: CombinedInspector, root: Path, worst: Sequence[WorstFrame]) -> list[FramePicture]:
    """Draws the first few parts with a wrong verdict of several models, frame beside finds.

    Args:
        inspector: Holds the bundle that was judged.
        root: Root of the data set.
        worst: The worst first.
    """
    made = []
    for row in worst[:SHOWN_MAX]:
        image = read_image(root / row.file)
        try:
            found = inspector.inspect(Frame(image=image, source=row.file)).detections
        except (PartNotFoundError, RegistrationError):
            found = ()
        made.append(FramePicture(row, jpeg_of(image, (), True), jpeg_of(image, found, False)))
    return made


def _coloured(image: UInt8Array) -> UInt8Array:
    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)


def tinted(image: UInt8Array, mask: UInt8Array, labels: Sequence[str]) -> UInt8Array:
    """Returns a frame on which each class of a mask, 0 for nothing, is tinted in its colour."""
    drawn = _coloured(image)
    colours = np.array([(0, 0, 0), *(colour_of(name) for name in labels)], np.float32)
    shown = mask > 0
    drawn = drawn.copy()
    drawn[shown] = (0.45 * drawn[shown] + 0.55 * colours[mask[shown]]).astype(np.uint8)
    return np.asarray(drawn, np.uint8)


def _tiles(r: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the figures that a reader looks for first, each with its words."""
    missed = escapes_of(r["good_or_bad"]["recall"])
    found = [(f"{missed['rate']:.2%}", f"escapes: bad parts that pass, {between(missed['interval'], '{:.2%}')}")]
    for rate in r["good_or_bad"]["false_rejects"][-1:]:
        words = f"false rejects: good parts that are rejected, {between(rate['interval'], '{:.2%}')}"
        found.append((f"{rate['rate']:.2%}", words))
    if r["task"] == "classification":
        found += [(f"{r['top1']:.3f}", f"top-1, {between(r['top1_interval'])}"), (f"{r['f1_macro']:.3f}", "macro F1")]
    elif r["task"] == "segmentation":
        found.append((f"{r['mean_iou']:.3f}", f"mean IoU, {between(r['mean_iou_interval'])}"))
    elif r["task"] == "anomaly":
        found.append((f"{r['auroc']:.3f}", "AUROC of parts"))
    elif r["task"] == "detection":
        found.append((f"{r['map50']:.3f}", f"mAP@0.5, {between(r['map50_interval'])}"))
    if r["task"] in ("detection", "segmentation"):
        between_f1 = f" {between(r['f1_interval'])}" if "f1_interval" in r else ""
        found.append((f"{r['f1']:.3f}", f"F1: is this type in this image?{between_f1}"))
    return [*found, (f"{r['latency_ms']['p50']:.1f} ms", f"a frame, the median, on {r['used_device']}")]


def write_page_of(path: Path, result: Any, bundle: Path, root: Path) -> None:
    """Draws the worst frames of an evaluation and writes its page.

    Args:
        result: What a judge gave.
        root: Root of the data set.
    """
    with Session(bundle, Config(variant=result.variant)) as session:
        whose = {"segmentation": draw_masks, "anomaly": draw_heat}.get(result.task, draw_worst)
        pictures = whose(session, root, result.fold, result.worst_frames)
    write_page(path, result, pictures)


_COLUMNS, _HEIGHT = 4, 190


def precision_recall(curves: Mapping[str, PrecisionRecallCurve], ap50: Mapping[str, float | None]) -> str:
    """Draws each type's curve; the ring is at its threshold."""
    parts = []
    for number, (name, curve) in enumerate(curves.items()):
        row, column = divmod(number, _COLUMNS)
        parts.append(_curve(name, curve, ap50[name], left=column * WIDTH / _COLUMNS, top=row * _HEIGHT))
    height = math.ceil(len(curves) / _COLUMNS) * _HEIGHT
    return svg(height, "precision against recall of each type", parts)


def _curve(name: str, curve: PrecisionRecallCurve, ap50: float | None, *, left: float, top: float) -> str:
    plot = Plot((0, 1), left=left + 34, right=left + WIDTH / _COLUMNS - 14, top=top + 26, bottom=top + _HEIGHT - 30)
    average = "" if ap50 is None else f" · AP {ap50:.3f}"
    parts = [
        text(plot.left, top + 14, f"{name[:22]}{average}", css=""),
        plot.rows((0.0, 0.5, 1.0)),
        plot.columns((0.0, 0.5, 1.0)),
        plot.curve(zip(curve.recall, curve.precision, strict=True), "l0"),
    ]
    if curve.precision_at_threshold is not None:
        recall, precision = curve.recall_at_threshold, curve.precision_at_threshold
        title = f"{name}: precision {precision:.3f}, recall {recall:.3f}"
        parts.append(dot(plot.x(recall), plot.y(precision), "ring", 5, title))
    return "".join(parts)


def cost_curve(points: Sequence[CostPoint]) -> str:
    """Draws the expected cost of the verdict over the weight of escapes, beside passing or rejecting everything.

    Args:
        points: By weight.
    """
    highest = min(0.5, max(0.05, 3 * max(point.cost for point in points)))
    plot = Plot((0, 1), (0, highest), left=44, right=WIDTH - 14, top=26, bottom=250)
    xs = [point.weight for point in points]
    parts = [
        text(plot.left, 14, "expected cost over the weight of escapes", css=""),
        plot.rows((0.0, highest / 2, highest), "{:.2g}".format),
        plot.columns((0.0, 0.25, 0.5, 0.75, 1.0)),
        plot.curve([(0, 0), (highest, highest)], "dashed", "pass everything"),
        plot.curve([(1 - highest, highest), (1, 0)], "dashed", "reject everything"),
        plot.curve([(x, point.cost) for x, point in zip(xs, points, strict=True)], "l0", "thresholds as they are"),
        plot.curve([(x, point.best) for x, point in zip(xs, points, strict=True)], "l2", "best common factor"),
    ]
    return svg(280, "expected cost of the verdict", parts)
