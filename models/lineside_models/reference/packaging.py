"""Package a learned reference as a bundle with labels, card, report and golden output."""

from __future__ import annotations

import dataclasses
import datetime
import math
from pathlib import Path

import cv2
import msgspec
import numpy as np

from lineside_models.anomaly.packaging import DECODER, check_name
from lineside_models.anomaly.threshold import MEDIAN_SCORE
from lineside_models.frame import Frame, UInt8Array
from lineside_models.golden import record
from lineside_models.reference.learning import LearnedReference
from lineside_models.reference.network import INPUT, OUTPUT, difference_model
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import (
    Bundle,
    Manifest,
    Postprocess,
    Preprocess,
    Reference,
    ReferenceImage,
    Variant,
    open_bundle,
    write_manifest,
)
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.config import Config
from lineside_runtime.files import write_atomic
from lineside_runtime.session import Session

LABEL = "difference"
_VARIANT = "onnx-fp32"
_FOLDER = "reference"
_SIDE_MAX = 4096
_STEEPNESS_LEAST = 0.25
"""Share of the threshold that the median good frame lies below it at least, for the scores' steepness."""

_MARK = 16
"""Side of the square that is painted into the golden frame, as a share of its short side: one of so many."""


def write_bundle(
    learned: LearnedReference,
    out: Path,
    *,
    name: str,
    version: str = "1.0.0",
    source: str = "",
    overwrite: bool = False,
) -> Bundle:
    """Writes the bundle. The references travel in it, and one of them, with a square painted on, is the golden input.

    Args:
        learned: From `learn_reference`.
        out: The folder to make.
        name: Of the bundle.
        version: Of the bundle.
        source: Source of the frames, as text, for the card.
        overwrite: Whether a bundle that stands at ``out`` is replaced; anything else there is never touched.

    Raises:
        InputError: Something stands at ``out``.
        ConfigError: The name is none for a bundle.
        DiskFullError: There is no room; nothing half-written remains.
        DeviceError: The model does not run here.
    """
    check_name(name)
    check_target(out, overwrite=overwrite)
    with staging_folder(out) as folder:
        model = folder / _VARIANT / "model.onnx"
        model.parent.mkdir()
        write_atomic(model, difference_model(grow_px=learned.options.grow_px))
        reference = write_references(learned, folder)
        write_atomic(folder / "labels.json", msgspec.json.encode([LABEL]))
        write_atomic(
            folder / "report.json", msgspec.json.format(msgspec.json.encode(report_of(learned, source)), indent=1)
        )
        write_atomic(folder / "model_card.md", _card(learned, name, source).encode())
        manifest = _manifest(learned, model, reference, name, version)
        with Session(write_manifest(folder, manifest), Config(engines=("ort",), threads=1)) as session:
            golden = record(session, folder, Frame(image=marked(learned.images[0])))
        write_manifest(folder, msgspec.structs.replace(manifest, golden=golden))
        open_bundle(folder)
        install_bundle(folder, out)
    return open_bundle(out, verify=False)


def write_references(learned: LearnedReference, folder: Path) -> Reference:
    """Writes references and tolerances as PNG files into a bundle's folder.

    Returns:
        The section of the manifest.

    Raises:
        DiskFullError: There is no room.
    """
    (folder / _FOLDER).mkdir(exist_ok=True)
    images = []
    for number, (image, tolerance) in enumerate(zip(learned.images, learned.tolerances, strict=True)):
        files = {"image": image, "darkest": tolerance.darkest, "brightest": tolerance.brightest}
        paths = {kind: f"{_FOLDER}/{number}-{kind}.png" for kind in files}
        for kind, pixels in files.items():
            write_atomic(folder / paths[kind], cv2.imencode(".png", pixels)[1].tobytes())
        images.append(ReferenceImage(**paths))
    limits = learned.options.limits
    return Reference(
        images=tuple(images),
        min_quality=limits.quality,
        max_shift=limits.shift,
        max_rotation_deg=limits.rotation_deg,
    )


def marked(image: UInt8Array) -> UInt8Array:
    """Returns a reference with a square of the opposite grey in its middle: a frame with something to find."""
    frame = np.array(image, np.uint8)
    side = max(8, min(image.shape[:2]) // _MARK)
    top, left = (size // 2 - side // 2 for size in image.shape[:2])
    patch = frame[top : top + side, left : left + side]
    patch[:] = 255 if patch.mean() < 128 else 0
    return frame


def _manifest(learned: LearnedReference, model: Path, reference: Reference, name: str, version: str) -> Manifest:
    facts = read_onnx(model)
    middle = min(float(np.median(learned.scores)), learned.value * (1 - _STEEPNESS_LEAST))
    steepness = math.log(1 / MEDIAN_SCORE - 1) / (learned.value - middle)
    params = {
        "maps": [OUTPUT],
        "calibration": [[steepness, -steepness * learned.value]],
        "thresholds": [0.5],
        "region_score": 0.5,
    }
    return Manifest(
        name=name,
        version=version,
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        task="anomaly",
        labels=(LABEL,),
        inputs=facts.inputs,
        outputs=facts.outputs,
        preprocess=Preprocess(
            input=INPUT,
            colour="bgr",
            min_side=1,
            max_side=_SIDE_MAX,
            multiple_of=2,
            pad_value=0,
            reference=reference,
        ),
        postprocess=Postprocess(name=DECODER, params=params),
        variants=(Variant(name=_VARIANT, format="onnx", file=f"{_VARIANT}/model.onnx", level=0, precision="fp32"),),
    )


def report_of(learned: LearnedReference, source: str) -> dict[str, object]:
    """Returns the content of the bundle's ``report.json``."""
    return {
        "schema": 1,
        "task": "reference",
        "source": source,
        "references": len(learned.images),
        "frames": learned.frames,
        "unregistered": learned.unregistered,
        "least_quality": learned.quality,
        "quantile": learned.options.quantile,
        "edge_px": learned.options.edge_px,
        "grow_px": learned.options.grow_px,
        "limits": dataclasses.asdict(learned.options.limits),
        "threshold_grey_levels": learned.value,
        "left_out": learned.scores,
        "left_out_above_threshold": sum(score >= learned.value for score in learned.scores),
    }


def _card(learned: LearnedReference, name: str, source: str) -> str:
    above = sum(score >= learned.value for score in learned.scores)
    text = _CARD.format(
        name=name,
        references="a reference" if len(learned.images) == 1 else f"the best of {len(learned.images)} references",
        frames=len(learned.scores),
        source=source or "frames that were given",
        value=learned.value,
        quantile=learned.options.quantile,
        above=above,
        edge_px=learned.options.edge_px,
        quality=learned.options.limits.quality,
        shift=learned.options.limits.shift,
        rotation=learned.options.limits.rotation_deg,
    )
    return text + (f"- {learned.warning[0].upper()}{learned.warning[1:]}.\n" if learned.warning else "")


_CARD = """# {name}

Compares a frame with {references} and says where they differ. The tolerance of each pixel comes from {frames} frames of
good parts ({source}). No defect was seen, and none has a name here.

- **How**: the frame is registered to the reference, its brightness matched, and each pixel compared with the darkest
  and the brightest value of good parts, whose edges may move by another {edge_px} px. Grey openings of 3 to 11 px leave
  what is larger than an edge that moved.
- **Score**: 0.5 is the threshold, {value:.0f} grey levels, below which an estimated {quantile} of good parts stay
  (Gumbel's distribution, fitted to the good frames' own scores, each by the tolerance of all others). It is no
  probability of a defect. {above} of the {frames} frames lay above the threshold when left out.
- **Faults**: a frame whose correlation with the reference is below {quality}, whose part is shifted by more than
  {shift:.0%} of the frame's long side or rotated by more than {rotation}°, or whose size is another, is a fault.
- **Can't**: see what the reference does not cover, at the edges of a frame whose part is displaced; find defects that
  are thinner than 3 px, or weaker than the tolerance.
"""
