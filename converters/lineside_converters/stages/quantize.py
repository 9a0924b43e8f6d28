"""Calibrate, and quantize within the bound on accuracy."""

from __future__ import annotations

import dataclasses

from lineside_converters.candidate import Candidate
from lineside_converters.context import Context
from lineside_converters.quantization.search import QuantizationSearch


def quantize(candidate: Candidate, context: Context) -> Candidate:
    """Searches for a plan that holds and quantizes by it; at level 0 nothing is done."""
    if not context.level.quantizes:
        return candidate
    context.progress.report(f"calibrate on {context.inputs.calibration_source}")
    choice, int8 = QuantizationSearch(candidate.model, context).choose()
    return dataclasses.replace(candidate, quantization=choice, int8=int8)
