"""Package a learned reference as a bundle with labels, card, report and golden output."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import msgspec
import numpy as np

from lineside_models.anomaly.packaging import DECODER, BadPartCheck, check_name, judge_bad_parts
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
    time_now,
    write_manifest,
)
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError
from lineside_runtime.files import write_atomic
from lineside_runtime.session import Session

LABEL = "difference"
NETWORK_CARD = "network_card.md"
_VARIANT = "onnx-fp32"
_FOLDER = "reference"
_SIDE_MAX = 8192
_BELOW_LEAST = 0.25
"""Share of the threshold by which the median good frame lies below it at least, for the slope of the scores."""

_MARK = 16
"""The square in the golden frame has this fraction of its short side."""


def write_bundle(
    learned: LearnedReference,
    out: Path,
    *,
    name: str,
    version: str = "1.0.0",
    source: str = "",
    checked: BadPartCheck | None = None,
    network: Bundle | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Writes the bundle. The references travel in it, and one of them, with a square painted on, is the golden input.

    Args:
        source: Source of the frames, as text, for the card.
        checked: What bad parts showed, for report and card.
        network: Bundle of a detector that takes frame, reference and difference; ``None`` for the classical difference.
        overwrite: Whether a bundle that stands at ``out`` is replaced; anything else there is never touched.

    Raises:
        InputError: Something stands at ``out``.
        ConfigError: The name is none for a bundle, or the network takes no reference.
        DiskFullError: There is no room; nothing half-written remains.
        DeviceError: The model does not run here.
    """
    check_name(name)
    check_target(out, overwrite=overwrite)
    with staging_folder(out) as folder:
        manifest = _write_difference(learned, folder) if network is None else _copy_network(learned, network, folder)
        manifest = msgspec.structs.replace(manifest, name=name, version=version, created_at=time_now())
        report = msgspec.json.encode(report_of(learned, source, checked))
        write_atomic(folder / "report.json", msgspec.json.format(report, indent=1))
        write_atomic(folder / "model_card.md", _card(learned, name, source, checked, network).encode())
        with Session(write_manifest(folder, manifest), Config(threads=1)) as session:
            golden = record(session, folder, Frame(image=marked(learned.images[0])))
        write_manifest(folder, msgspec.structs.replace(manifest, golden=golden))
        open_bundle(folder)
        install_bundle(folder, out)
    return open_bundle(out, verify=False)


def check(
    learned: LearnedReference, frames: Iterable[Frame], source: str, *, network: Bundle | None = None
) -> BadPartCheck:
    """Judges bad parts; nothing is kept of it. A frame that can't be registered does not pass.

    Args:
        network: As for `write_bundle`.
    """
    with tempfile.TemporaryDirectory(prefix="lineside-check-") as folder:
        bundle = write_bundle(learned, Path(folder) / "bundle", name="check", network=network)
        return judge_bad_parts(bundle, frames, source)


def marked(image: UInt8Array) -> UInt8Array:
    """Returns a reference with a square of the opposite grey in its middle: a frame with something to find."""
    frame = np.array(image, np.uint8)
    side = max(8, min(image.shape[:2]) // _MARK)
    top, left = (size // 2 - side // 2 for size in image.shape[:2])
    patch = frame[top : top + side, left : left + side]
    patch[:] = 255 if patch.mean() < 128 else 0
    return frame


def _write_references(learned: LearnedReference, folder: Path, *, with_tolerances: bool) -> Reference:
    """Writes the images as PNG files; returns the section of the manifest."""
    (folder / _FOLDER).mkdir(exist_ok=True)
    images = []
    for number, (image, tolerance) in enumerate(zip(learned.images, learned.tolerances, strict=True)):
        files = {"image": image}
        if with_tolerances:
            files |= {"darkest": tolerance.darkest, "brightest": tolerance.brightest}
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


def _copy_network(learned: LearnedReference, network: Bundle, folder: Path) -> Manifest:
    """Copies a detector's files; returns its manifest with the references in place of its own."""
    how = network.manifest.preprocess
    if not isinstance(how.reference, Reference):
        raise ConfigError(
            f"{network.manifest.identity} takes frames alone",
            expected="a detector that was trained on frames with a reference",
            action="Leave out --network for the classical difference.",
        )
    golden = network.manifest.golden
    replaced = {path for image in how.reference.images for path in image.files}
    replaced |= set() if golden is None else {golden.frame, *golden.outputs.values()}
    for relative in network.manifest.files.keys() - replaced:
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / relative, network.file(relative).read_bytes())
    if (folder / "model_card.md").is_file():
        (folder / "model_card.md").rename(folder / NETWORK_CARD)
    reference = _write_references(learned, folder, with_tolerances=False)  # it was trained on the absolute difference
    preprocess = msgspec.structs.replace(how, reference=reference)
    return msgspec.structs.replace(network.manifest, preprocess=preprocess, golden=None)


def _write_difference(learned: LearnedReference, folder: Path) -> Manifest:
    """Writes network, references and labels of the classical difference; returns its manifest."""
    model = folder / _VARIANT / "model.onnx"
    model.parent.mkdir()
    write_atomic(model, difference_model(grow_px=learned.options.grow_px))
    write_atomic(folder / "labels.json", msgspec.json.encode([LABEL]))
    facts = read_onnx(model)
    middle = min(float(np.median(learned.scores)), learned.value * (1 - _BELOW_LEAST))
    slope = math.log(1 / MEDIAN_SCORE - 1) / (learned.value - middle)
    params = {"maps": [OUTPUT], "calibration": [[slope, -slope * learned.value]], "thresholds": [0.5]}
    return Manifest(
        name=LABEL,
        version="0",
        created_at=time_now(),
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
            reference=_write_references(learned, folder, with_tolerances=True),
        ),
        postprocess=Postprocess(name=DECODER, params={**params, "region_score": 0.5}),
        variants=(Variant(name=_VARIANT, format="onnx", file=f"{_VARIANT}/model.onnx", level=0, precision="fp32"),),
    )


def report_of(learned: LearnedReference, source: str, checked: BadPartCheck | None = None) -> dict[str, object]:
    """Returns the content of the bundle's ``report.json``."""
    return {
        **({} if checked is None else {"checked": dataclasses.asdict(checked)}),
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


def _card(
    learned: LearnedReference, name: str, source: str, checked: BadPartCheck | None, network: Bundle | None
) -> str:
    limits = learned.options.limits
    if network is None:
        how = _DIFFERENCE.format(
            value=learned.value,
            quantile=learned.options.quantile,
            above=sum(score >= learned.value for score in learned.scores),
            edge_px=learned.options.edge_px,
            frames=len(learned.scores),
        )
    else:
        how = _NETWORK.format(network=network.manifest.identity, card=NETWORK_CARD)
    text = _CARD.format(
        name=name,
        references="a reference" if len(learned.images) == 1 else f"the best of {len(learned.images)} references",
        frames=len(learned.scores),
        source=source or "frames that were given",
        how=how,
        quality=limits.quality,
        shift=limits.shift,
        rotation=limits.rotation_deg,
    )
    notes = [learned.warning] if learned.warning else []
    if checked is not None:
        found = checked.frames - len(checked.passed)
        notes.append(f"{found} of {checked.frames} bad parts ({checked.source}) were found")
    return text + "".join(f"- {note[0].upper()}{note[1:]}.\n" for note in notes)


_CARD = """# {name}

Compares a frame with {references} and says where they differ. {frames} frames of good parts were given ({source}).

{how}- **Faults**: a frame whose correlation with the reference is below {quality}, whose part is shifted by more than
  {shift:.0%} of the frame's long side or rotated by more than {rotation}°, or whose size is another, is a fault.
- **Can't**: see what the reference does not cover, at the edges of a frame whose part is displaced.
"""

_DIFFERENCE = """- **How**: the frame is registered to the reference, its brightness matched, and each pixel
  compared with the darkest and the brightest value of good parts, whose edges may move by another {edge_px} px. Grey
  openings of 3 to 11 px leave what is larger than an edge that moved; what is thinner than 3 px is not found. No defect
  was seen, and none has a name here.
- **Score**: 0.5 is the threshold, {value:.0f} grey levels, below which an estimated {quantile} of good parts stay
  (Gumbel's distribution, fitted to the good frames' own scores, each by the tolerance of all others). It is no
  probability of a defect. {above} of the {frames} frames lay above the threshold when left out.
"""

_NETWORK = """- **How**: the frame is registered to the reference and its brightness matched. The detector {network}
  sees frame, reference and difference; its card is {card}.
"""
