"""Extend an anomaly model by frames of a new kind of part: its bank grows, its threshold stays.

::

    bundle ─► banks and threshold ─┐
    frames ─► features ────────────┴─► cells that the banks don't cover ─► larger banks ─► bundle
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np

from lineside_models.anomaly.bank import FeatureBank
from lineside_models.anomaly.coreset import Floats, Ints, choose_spread
from lineside_models.anomaly.defect_head import HEAD_WEIGHTS, MarkedHead
from lineside_models.anomaly.defect_types import TypeHead
from lineside_models.anomaly.features import FrameFeatures, features_bundle
from lineside_models.anomaly.learning import AnomalyModel
from lineside_models.anomaly.names import (
    HEAD,
    HEAD_FILE,
    LOOKS,
    MIRROR_FILE,
    OUTPUTS_FILE,
    SEARCH_FILE,
    TYPES,
    map_name,
    stride_of,
)
from lineside_models.anomaly.onnx_tail import read_weights, with_node, with_other_input, with_output
from lineside_models.anomaly.threshold import AnomalyThreshold
from lineside_runtime.bundle import Bundle
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BundleFormatError, ConfigError

ADDED_ENTRIES = 512
"""Most entries that frames of one new kind of part add to each scale."""

_OTHER = -1
"""Owner of entries that were read from a bundle, which doesn't say whose they are."""


@dataclasses.dataclass(frozen=True, slots=True)
class Extension:
    """An extended model, and its scores of the added frames.

    Attributes:
        entries: Entries that were added to each scale.
        above_before: Frames that the old model rejects.
        above_left_out: Frames that it would reject if all added frames but their part's had been added.
    """

    model: AnomalyModel
    frames: int
    entries: tuple[int, ...]
    above_before: int
    above_left_out: int


def read_model(bundle: Bundle) -> AnomalyModel:
    """Reads the model out of a bundle that `write_bundle` wrote.

    Raises:
        ConfigError: The bundle is no anomaly model.
        BundleFormatError: It was made with other features than this release ships, or it is damaged.
    """
    manifest = bundle.manifest
    if manifest.task != "anomaly":
        raise ConfigError(
            f"bundle {manifest.identity}",
            expected="a model of good parts",
            actual=f"a model for {manifest.task!r}",
            action="Make one with `lineside learn-good`.",
        )
    source = features_bundle()
    model = bundle.file(manifest.variants[0].file).read_bytes()
    strides = tuple(stride_of(spec.name) for spec in source.manifest.outputs)
    has_head = map_name(HEAD) in {spec.name for spec in manifest.outputs}
    map_keys = (*strides, HEAD) if has_head else strides
    try:
        names = manifest.labels[1:]
        weights = read_weights(model.removeprefix(graph_of(source, head=has_head, types=len(names))))
        report = decode_json(bundle.file("report.json").read_bytes(), type=dict[str, Any])
        return AnomalyModel(
            source=source,
            strides=strides,
            banks=tuple(_bank(weights, stride) for stride in strides),
            threshold=AnomalyThreshold(
                gains=tuple(float(weights[f"gain_{stride}"][0]) for stride in map_keys),
                offsets=tuple(float(weights[f"offset_{stride}"][0]) for stride in map_keys),
                left_out=tuple(report["left_out"]),
                value=float(report["bar"]),
                quantile=float(report["quantile"]),
                calibration=tuple(manifest.postprocess.params["calibration"][0]),
            ),
            peak_cells=int(manifest.postprocess.params.get("peak_cells", 1)),
            frames=report["frames"],
            parts=report["parts"],
            suspects=tuple(report.get("suspects", ())),
            added=tuple(report.get("added", ())),
            variation=report["variation"],
            unevenness=report["unevenness"],
            seconds=report["seconds"],
            head=MarkedHead(*(weights[f"{name}_{HEAD}"] for name in HEAD_WEIGHTS)) if has_head else None,
            marked=int(report.get("marked", 0)),
            types=TypeHead(names, weights[f"weights_{TYPES}"], weights[f"bias_{TYPES}"]) if names else None,
        )
    except (KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise BundleFormatError(
            f"{manifest.identity} can't be extended: it was made with other features than this release ships, or is "
            "damaged",
            action="Learn again, from the old and the new good parts together.",
        ) from error


def graph_of(source: Bundle, *, head: bool = False, types: int = 0) -> bytes:
    """Returns the common graph of all models without weights: frame and mirror image, network, then search and head.

    Args:
        source: The shipped bundle of features.
        types: Number of types that are told apart behind the head.

    Raises:
        BundleFormatError: The shipped pieces don't fit together.
    """
    model = source.file(source.manifest.variants[0].file).read_bytes()
    ending = source.file(OUTPUTS_FILE).read_bytes()
    if not model.endswith(ending):
        raise BundleFormatError(f"{source.manifest.identity}: the model doesn't end with {OUTPUTS_FILE}")
    pieces = (SEARCH_FILE, HEAD_FILE) if head else (SEARCH_FILE,)
    network = with_other_input(model.removesuffix(ending), source.manifest.preprocess.input, LOOKS)
    mirror, *search = (source.file(piece).read_bytes() for piece in (MIRROR_FILE, *pieces))
    graph = b"".join((mirror, network, *search))
    return _with_types(graph, source, types) if types else graph


def _with_types(graph: bytes, source: Bundle, types: int) -> bytes:
    """Returns the graph with the discriminants of so many types, on the features that the head joins."""
    side = source.manifest.outputs[0].shape[2]
    graph = with_node(graph, "MatMul", (f"own_{HEAD}", f"weights_{TYPES}"), f"products_{TYPES}")
    graph = with_node(graph, "Add", (f"products_{TYPES}", f"bias_{TYPES}"), f"values_{TYPES}")
    graph = with_node(graph, "Reshape", (f"values_{TYPES}", f"shape_{TYPES}"), map_name(TYPES))
    return with_output(graph, map_name(TYPES), ("batch", side, side, types))


def extend(model: AnomalyModel, features: FrameFeatures, *, seed: int = 0) -> Extension:
    """Adds frames of a new kind of part to a model; the threshold stays.

    On magnetic-tile, five good frames of a tile raise the AUROC on its further frames (benchmark ``learn_good``). A
    shift of the scores by those of the five frames was tried in place of it and was no better than nothing.

    Args:
        seed: Of the random generator.
    """
    near = tuple(
        bank.distances(cells.reshape(-1, cells.shape[-1])).reshape(cells.shape[:3])
        for bank, cells in zip(model.banks, features.learned, strict=True)
    )
    everything = np.arange(len(features.parts))
    banks = _extended(model.banks, features, near, everything, seed)
    left_out = 0
    for part in np.unique(features.parts):
        mine = features.parts == part
        known = _extended(model.banks, features, near, everything[~mine], seed) if not mine.all() else model.banks
        sums = dataclasses.replace(model, banks=known).sums(tuple(cells[:, mine] for cells in features.scales))
        left_out += int((sums >= model.threshold.value).sum())
    above = int((model.sums(features.scales) >= model.threshold.value).sum())
    entries = tuple(len(new.entries) - len(old.entries) for new, old in zip(banks, model.banks, strict=True))
    extended = dataclasses.replace(model, banks=banks, added=(*model.added, len(everything)))
    return Extension(extended, len(everything), entries, above, left_out)


def _extended(
    banks: tuple[FeatureBank, ...], features: FrameFeatures, near: tuple[Floats, ...], frames: Ints, seed: int
) -> tuple[FeatureBank, ...]:
    """Returns the banks with cells of some frames, given how far all cells are from the banks as they are."""
    larger = []
    for bank, cells, distances in zip(banks, features.learned, near, strict=True):
        turned = bank.turned(cells[:, frames].reshape(-1, cells.shape[-1]))
        chosen = choose_spread(turned, ADDED_ENTRIES, seed=seed, known=distances[:, frames].ravel())
        larger.append(bank.plus(turned[chosen], _OTHER))
    return tuple(larger)


def _bank(weights: dict[str, Any], stride: int) -> FeatureBank:
    entries = np.ascontiguousarray(weights[f"bank_{stride}"].T)
    return FeatureBank(
        whiten=weights[f"whiten_{stride}"],
        shift=weights[f"shift_{stride}"],
        entries=entries,
        scales=weights[f"bank_scale_{stride}"] / -2,
        owners=np.full(len(entries), _OTHER, np.int64),
    )
