"""The accuracy of a bundle with its source, or none: it is never estimated."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from lineside_runtime.bundle import Bundle, Variant
from lineside_runtime.config import Config
from lineside_runtime.decoding import decode_json
from lineside_runtime.precision import FLOAT_PRECISIONS

REPORT_NAME = "report.json"


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One measured figure.

    Attributes:
        name: Such as ``mAP@0.5``.
        value: 0 to 1.
        source: Who measured it, on what.
    """

    name: str
    value: float
    source: str


Judge = Callable[[Bundle, Config], Accuracy]
"""Measures a bundle on data; `lineside.commands.engines.accuracy.on_data` makes one."""


class _Figures(msgspec.Struct, frozen=True):
    map50: float | None = None


class _Report(msgspec.Struct, frozen=True):
    """The part of ``report.json`` that matters here; the optimizer owns the format."""

    model: str
    accuracy_on: str = ""
    float: _Figures | None = None
    int8: _Figures | None = None


def from_report(bundle: Bundle, variant: Variant) -> Accuracy | None:
    """Returns a variant's accuracy from the bundle's ``report.json``; ``None`` if it states none."""
    if REPORT_NAME not in bundle.manifest.files:
        return None
    try:
        report = decode_json(bundle.file(REPORT_NAME).read_bytes(), type=_Report)
    except (OSError, msgspec.DecodeError):  # missing, or of another release: then it says nothing here
        return None
    figures = report.float if variant.precision in FLOAT_PRECISIONS else report.int8
    if figures is None or figures.map50 is None:
        return None
    return Accuracy(
        name="mAP@0.5",
        value=figures.map50,
        source=f"report.json of {report.model}, {report.accuracy_on or 'no data named'}",
    )
