"""Package an anomaly model as a bundle with labels, card, report and golden output."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.anomaly.defect_head import HEAD_WEIGHTS
from lineside_models.anomaly.extension import graph_of
from lineside_models.anomaly.learning import AnomalyModel
from lineside_models.anomaly.names import HEAD, LABEL, TYPES, map_name
from lineside_models.anomaly.onnx_tail import with_weights
from lineside_models.frame import Frame
from lineside_models.golden import record
from lineside_models.inspector import Inspector
from lineside_models.postprocess.decoders.anomaly import AnomalyParams
from lineside_models.simulator import render
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, open_bundle, time_now, write_manifest
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, RegistrationError
from lineside_runtime.files import write_atomic
from lineside_runtime.session import Session

DECODER = "anomaly_maps"
_GOLDEN_SEED = 12
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclasses.dataclass(frozen=True, slots=True)
class BadPartCheck:
    """Verdicts of the model on bad parts.

    Attributes:
        frames: Number of bad parts.
    """

    frames: int
    passed: tuple[str, ...]
    source: str

    @property
    def summary(self) -> str:
        """How many were found, for people."""
        return f"{self.frames - len(self.passed)} of {self.frames} bad parts found ({self.source})"

    @property
    def warning(self) -> str:
        """Warning if half of them pass or more; else empty."""
        if 2 * len(self.passed) < self.frames:
            return ""
        return (
            f"{len(self.passed)} of {self.frames} bad parts of {self.source} pass: this model doesn't find these "
            "defects. Train a detector or classifier on annotated ones"
        )


def check(anomaly: AnomalyModel, frames: Iterable[Frame], source: str) -> BadPartCheck:
    """Judges bad parts with the model; nothing is kept of it."""
    with tempfile.TemporaryDirectory(prefix="lineside-check-") as folder:
        return judge_bad_parts(write_bundle(anomaly, Path(folder) / "bundle", name="check"), frames, source)


def judge_bad_parts(bundle: Bundle, frames: Iterable[Frame], source: str) -> BadPartCheck:
    """Judges bad parts with a bundle; a frame that can't be compared with its reference does not pass."""
    passed, count = [], 0
    with Session(bundle, Config(engines=("ort",), threads=1)) as session:
        inspector = Inspector(session)
        for frame in frames:
            count += 1
            with contextlib.suppress(RegistrationError):
                if inspector.inspect(frame).passed:
                    passed.append(frame.part_id or f"{frame.source} {frame.sequence}")
    return BadPartCheck(count, tuple(passed), source)


def write_bundle(
    anomaly: AnomalyModel,
    out: Path,
    *,
    name: str,
    version: str = "1.0.0",
    source: str = "",
    checked: BadPartCheck | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Writes the bundle.

    The golden input is a frame of the line simulator: a part's own picture would travel with the bundle.

    Args:
        source: Source of the frames, as text, for the card.
        checked: What bad parts showed, for report and card.
        overwrite: Whether a bundle that stands at ``out`` is replaced; anything else there is never touched.

    Raises:
        InputError: Something stands at ``out``.
        ConfigError: The name is none for a bundle.
        BundleFormatError: The shipped features are of another release.
        DiskFullError: There is no room; nothing half-written remains.
        DeviceError: The model doesn't run here.
    """
    check_name(name)
    check_target(out, overwrite=overwrite)
    variant = anomaly.source.manifest.variants[0]
    with staging_folder(out) as folder:
        (folder / variant.file).parent.mkdir()
        write_atomic(folder / variant.file, model_bytes(anomaly))
        write_atomic(folder / "labels.json", msgspec.json.encode(_labels(anomaly)))
        report = msgspec.json.encode(report_of(anomaly, source, checked))
        write_atomic(folder / "report.json", msgspec.json.format(report, indent=1))
        write_atomic(folder / "model_card.md", _card(anomaly, name, source, checked).encode())
        manifest = _manifest(anomaly, folder / variant.file, name, version)
        with Session(write_manifest(folder, manifest), Config(engines=("ort",), threads=1)) as session:
            golden = record(session, folder, Frame(image=render("steel", _GOLDEN_SEED, defects=3).image))
        write_manifest(folder, msgspec.structs.replace(manifest, golden=golden))
        open_bundle(folder)
        install_bundle(folder, out)
    return open_bundle(out, verify=False)


def check_name(name: str) -> None:
    """Checks the name of a new bundle.

    Raises:
        ConfigError: It is none for a bundle.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError("name of the bundle", expected="letters, digits, '.', '_' and '-'", actual=name)


def model_bytes(anomaly: AnomalyModel) -> bytes:
    """Returns the ONNX file: the features' graph, the search in place of its outputs, and the banks.

    Raises:
        BundleFormatError: The shipped pieces don't fit together.
    """
    graph = graph_of(
        anomaly.source, head=anomaly.head is not None, types=0 if anomaly.types is None else len(anomaly.types.names)
    )
    return with_weights(graph, _weights(anomaly))


def _weights(anomaly: AnomalyModel) -> Mapping[str, npt.NDArray[Any]]:
    """Returns the weights of the search by name; see ``search_piece`` in the converters for their use."""
    weights: dict[str, npt.NDArray[Any]] = {}
    for stride, bank in zip(anomaly.strides, anomaly.banks, strict=True):
        vectors = bank.vectors
        weights[f"whiten_{stride}"] = bank.whiten
        weights[f"shift_{stride}"] = bank.shift
        weights[f"bank_{stride}"] = np.ascontiguousarray(bank.entries.T)
        weights[f"bank_scale_{stride}"] = np.asarray(-2 * bank.scales, np.float32)
        weights[f"bank_square_{stride}"] = np.einsum("nc,nc->n", vectors, vectors)
    if anomaly.head is not None:
        weights |= {f"{name}_{HEAD}": getattr(anomaly.head, name) for name in HEAD_WEIGHTS}
    if anomaly.types is not None:
        side = anomaly.side
        weights[f"weights_{TYPES}"], weights[f"bias_{TYPES}"] = anomaly.types.weights, anomaly.types.bias
        weights[f"shape_{TYPES}"] = np.array((-1, side, side, len(anomaly.types.names)), np.int64)
    for key, gain, offset in zip(_map_keys(anomaly), anomaly.threshold.gains, anomaly.threshold.offsets, strict=True):
        weights[f"gain_{key}"] = np.array([gain], np.float32)
        weights[f"offset_{key}"] = np.array([offset], np.float32)
    return weights


def _map_keys(anomaly: AnomalyModel) -> tuple[int | str, ...]:
    """Returns the names of the maps, without their prefix."""
    return anomaly.strides if anomaly.head is None else (*anomaly.strides, HEAD)


def _labels(anomaly: AnomalyModel) -> tuple[str, ...]:
    """Returns `LABEL`, then the marked types."""
    names = () if anomaly.types is None else anomaly.types.names
    return (LABEL, *names)


def _manifest(anomaly: AnomalyModel, model: Path, name: str, version: str) -> Manifest:
    source, facts = anomaly.source.manifest, read_onnx(model)
    labels = _labels(anomaly)
    params = AnomalyParams(
        maps=tuple(map_name(one) for one in _map_keys(anomaly)),
        calibration=(anomaly.threshold.calibration,),
        peak_cells=anomaly.peak_cells,
    )
    kept = {
        "maps": params.maps,
        "calibration": params.calibration,
        "thresholds": [0.5] * len(labels),
        "region_score": 0.5,
        "peak_cells": params.peak_cells,
        **({} if anomaly.types is None else {"types": map_name(TYPES)}),
    }
    return Manifest(
        name=name,
        version=version,
        created_at=time_now(),
        task="anomaly",
        labels=labels,
        inputs=facts.inputs,
        outputs=facts.outputs,
        preprocess=source.preprocess,
        postprocess=Postprocess(name=DECODER, params=msgspec.to_builtins(kept)),
        variants=source.variants,
        licence=source.licence,
        data_terms=source.data_terms,
    )


def report_of(anomaly: AnomalyModel, source: str, checked: BadPartCheck | None = None) -> dict[str, object]:
    """Returns the content of the bundle's ``report.json``."""
    return {
        **({} if checked is None else {"checked": dataclasses.asdict(checked)}),
        "schema": 1,
        "task": "anomaly",
        "features": anomaly.source.manifest.identity,
        "features_sha256": anomaly.source.digest,
        "frames": anomaly.frames,
        "parts": anomaly.parts,
        "suspects": _below_common_folder(anomaly.suspects),
        "added": anomaly.added,
        "marked": anomaly.marked,
        "source": source,
        "bank_entries": [len(bank.entries) for bank in anomaly.banks],
        "bank_bytes": anomaly.bank_bytes,
        "quantile": anomaly.threshold.quantile,
        "bar": anomaly.threshold.value,
        "left_out": anomaly.threshold.left_out,
        "variation": anomaly.variation,
        "unevenness": anomaly.unevenness,
        "left_out_above_bar": len(anomaly.suspects),
        "seconds": anomaly.seconds,
    }


def _below_common_folder(names: Sequence[str]) -> list[str]:
    """Returns frames' names without the folder that holds them all: a bundle does not name folders of this machine."""
    try:
        common = os.path.commonpath([Path(name).parent for name in names])
    except ValueError:  # none, or both absolute and relative ones
        return [Path(name).name for name in names]
    return [str(Path(name).relative_to(common)) for name in names]


def _card(anomaly: AnomalyModel, name: str, source: str, checked: BadPartCheck | None) -> str:
    notes = (
        []
        if checked is None
        else [f"{checked.frames - len(checked.passed)} of {checked.frames} bad parts ({checked.source}) were found"]
    )
    notes += [anomaly.warning] if anomaly.warning else []
    notes += [f"{anomaly.marked} bad parts were marked; a network beside the banks learned them"] * bool(anomaly.marked)
    if anomaly.types is not None:
        notes += [f"regions that look like marked defects are named {', '.join(anomaly.types.names)}"]
    notes += [f"extended by {count} frames of a new kind of part" for count in anomaly.added]
    above = len(anomaly.suspects)
    return _CARD.format(
        name=name,
        frames=anomaly.frames,
        parts=anomaly.parts,
        source=source or "frames that were given",
        features=anomaly.source.manifest.identity,
        entries=" and ".join(str(len(bank.entries)) for bank in anomaly.banks),
        bank_bytes=anomaly.bank_bytes,
        quantile=anomaly.threshold.quantile,
        above=above,
    ) + "".join(f"- {note[0].upper()}{note[1:]}.\n" for note in notes)


_CARD = """# {name}

Says how unlike good parts a frame is, and where. Learned from {frames} frames of good parts ({source}).

- **How**: features of `{features}` (INT8), compared with banks of {entries} features of good frames,
  {bank_bytes} bytes (PatchCore, arXiv:2106.08265); of frame and mirror image the nearer one counts.
- **Score**: 0.5 is the bar, below which an estimated {quantile} of good parts stay (Gumbel's distribution, fitted to
  the parts' own scores, each by a bank without it, and raised for what {parts} parts leave uncertain); half of the good
  frames stay below 0.05. It is no probability of a defect: nobody knows how often parts are bad. {above} of the
  {frames} frames lay above the bar when left out.
- **Can't**: know good parts that look unlike those it learnt from (another light, camera, variant): learn again, from
  all of them. Frames of one part that nobody named as such make the bar too low.
"""
