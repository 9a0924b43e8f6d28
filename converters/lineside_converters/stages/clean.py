"""Clean the float graph, so that engines and the quantizer read it well."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lineside_converters.candidate import Candidate
from lineside_converters.context import Context
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.work_folder import QUICK, file_hash


def clean(candidate: Candidate, context: Context) -> Candidate:
    """Infers shapes, folds constants and removes what does nothing."""

    def make(folder: Path) -> None:
        clean_graph(candidate.model, folder / "clean.onnx")

    folder = context.work.step(QUICK, {"source": file_hash(candidate.model)}, make)
    return dataclasses.replace(candidate, model=folder / "clean.onnx")
