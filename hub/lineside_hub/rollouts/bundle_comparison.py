"""Differences of two bundles: figures of their reports, thresholds, description and model cards. Pure."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from lineside_models.postprocess import thresholds_of, unsure_from_of
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import ConfigError

_FIGURES = {
    "map50": "mAP@0.5",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "latency_ms": "latency, ms",
    "latency_p95_ms": "latency at p95, ms",
    "size_bytes": "size, bytes",
    "throughput_fps": "frames a second",
    "memory_bytes": "memory, bytes",
}
"""Names of figures in a report's ``float`` and ``int8``; others keep their own."""


class BundleText(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison reads of a bundle.

    Attributes:
        report: Content of ``report.json``; empty for none.
        card: Content of ``model_card.md``; empty for none.
    """

    manifest: Manifest
    report: Mapping[str, Any]
    card: str


class ComparedValue(msgspec.Struct, frozen=True, kw_only=True):
    """One value of both bundles, as text; empty where a bundle has none."""

    name: str
    before: str
    after: str

    @property
    def differs(self) -> bool:
        """Whether it is not the same."""
        return self.before != self.after


class BundleComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two bundles beside each other.

    Attributes:
        before: ``name@version``; empty if there is nothing to compare with.
        figures: Of the reports, with the data that they were measured on.
        thresholds: Score from which a type is a defect, by type.
        card: Unified diff of the model cards, a line each; empty if they are equal.
    """

    before: str
    after: str
    figures: tuple[ComparedValue, ...]
    thresholds: tuple[ComparedValue, ...]
    description: tuple[ComparedValue, ...]
    card: tuple[str, ...]


def compare(before: BundleText | None, after: BundleText) -> BundleComparison:
    """Compares two bundles; ``None`` for nothing before."""
    names = (before.manifest.identity if before else "", after.manifest.identity)
    old, new = (before.card if before else "").splitlines(), after.card.splitlines()
    lines = difflib.unified_diff(old, new, *names, lineterm="") if before else ()
    return BundleComparison(
        before=names[0],
        after=names[1],
        figures=_beside(before, after, _figures),
        thresholds=_beside(before, after, _thresholds),
        description=_beside(before, after, _description),
        card=tuple(lines),
    )


def _beside(before: BundleText | None, after: BundleText, read: Any) -> tuple[ComparedValue, ...]:
    old: dict[str, str] = dict(read(before)) if before else {}
    new: dict[str, str] = dict(read(after))
    return tuple(ComparedValue(name=name, before=old.get(name, ""), after=new.get(name, "")) for name in {**new, **old})


def _figures(bundle: BundleText) -> Iterator[tuple[str, str]]:
    for part, label in (("int8", "INT8"), ("float", "float")):
        values = bundle.report.get(part)
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if _is_figure(value):
                yield f"{_FIGURES.get(key, key)} ({label})", _text(value)
    measured_on = bundle.report.get("accuracy_on")
    if measured_on:
        yield "accuracy measured on", str(measured_on)
    for gate in bundle.report.get("gates") or ():
        if isinstance(gate, Mapping):
            value = f" {_text(gate['value'])} of {_text(gate.get('limit'))}" if _is_figure(gate.get("value")) else ""
            yield f"gate {gate.get('name')}", f"{gate.get('status')}{value}"


def _thresholds(bundle: BundleText) -> Iterator[tuple[str, str]]:
    manifest = bundle.manifest
    if manifest.several:
        return
    try:
        bars = thresholds_of(manifest.postprocess, len(manifest.labels))
        doubtful = unsure_from_of(manifest.postprocess, len(manifest.labels))
    except ConfigError:
        return
    for label, bar, doubt in zip(manifest.labels, bars, doubtful, strict=True):
        if math.isfinite(bar):
            yield label, f"{bar:.3f}" + (f", unsure from {doubt:.3f}" if math.isfinite(doubt) else "")


def _description(bundle: BundleText) -> Iterator[tuple[str, str]]:
    manifest = bundle.manifest
    yield "made at", manifest.created_at
    yield "task", manifest.task
    yield "types", ", ".join(manifest.labels)
    yield "variants", ", ".join(one.name for one in manifest.variants)
    yield "models", ", ".join(one.name for one in manifest.several)
    yield "size, bytes", str(manifest.size_bytes)
    yield "licence", str(manifest.licence or "")
    yield "terms of the data", ", ".join(f"{name} ({terms})" for name, terms in (manifest.data_terms or {}).items())


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
