"""Inputs of the optimizer for models of texts: windows to calibrate on, and F1 by document as the metric."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from lineside_converters.data.calibration_data import AnnotatedFrames, ModelInputs
from lineside_converters.options import CallerMetric
from lineside_converters.quantization.static import Feed
from lineside_models.nlp.document_sets.annotations import AnnotatedDocument
from lineside_models.nlp.document_sets.loading import load_documents
from lineside_models.nlp.document_sets.scoring import count_values, document_scores
from lineside_models.nlp.extraction.contract_parser import SpanExtractor
from lineside_models.nlp.extraction.sample_contract import GOLDEN_TEXT
from lineside_models.nlp.extraction.windows import TextWindows, batches
from lineside_runtime.bundle import Manifest, TextForm
from lineside_runtime.errors import CalibrationError
from lineside_runtime.tensors import Array

DOCUMENT_METRIC = "F1 of values by document"
"""Name of `DocumentMetric`: its mean over the documents."""

TUNED_ON, JUDGED_ON = 24, 60
"""Documents at most that are chosen on, and that accuracy is compared on."""


class DocumentMetric:
    """F1 of the values of each document, for the accuracy gate and for the choice of layers that stay in float."""

    def __init__(self, documents: Sequence[AnnotatedDocument], manifest: Manifest, tokenizer: Path) -> None:
        """Takes the documents to judge on."""
        self.documents, self._manifest, self._tokenizer = documents, manifest, tokenizer

    def __call__(self, run: Callable[[Mapping[str, Array]], dict[str, Array]]) -> list[float]:
        """Returns the F1 of each document, as a model finds its values."""
        extractor = SpanExtractor(self._manifest, self._tokenizer, run)
        found = [extractor.read(document.text)[0] for document in self.documents]
        return document_scores(count_values(self.documents, found, self._manifest.labels))


def is_document_model(manifest: Manifest) -> bool:
    """Returns whether a model takes texts."""
    return manifest.task == "spans"


def gather_documents(
    manifest: Manifest,
    tokenizer: Path,
    *,
    limit: int,
    frames: object,
    data: Sequence[Path],
    fold: str,
    judge_fold: str | None,
) -> tuple[ModelInputs, CallerMetric | None]:
    """Collects windows of texts to calibrate on, and the metrics of annotated documents.

    Args:
        limit: Windows to calibrate on, at most.
        frames: Must be ``None``: a model of texts is calibrated on documents.
        data: Folders of annotated documents; without any, windows of an example contract serve, and accuracy is not
            compared.
        fold: Fold to calibrate and to choose on.
        judge_fold: Fold to judge on; ``val`` if ``None``. Documents that were chosen on are left out.

    Raises:
        CalibrationError: Frames were given, a fold has no documents, or none is left to judge on.
    """
    form = manifest.preprocess.text
    if frames is not None or not isinstance(form, TextForm):
        raise CalibrationError(
            f"{manifest.name} takes texts", expected="data: folders of annotated documents", action="Leave frames out."
        )
    chosen_on, judged_on = _divided(_documents(data, fold), _documents(data, judge_fold or "val"))
    texts = [document.text for document in chosen_on] or [GOLDEN_TEXT]
    windows = TextWindows(tokenizer, form)
    feeds: list[Feed] = []
    for text in texts:
        feeds += [{manifest.preprocess.input: ids} for _, ids in batches(windows(text), size=1)]
    feeds = _spread(feeds, limit)
    names = " and ".join(folder.name for folder in data)
    inputs = ModelInputs(
        calibration=tuple(feeds),
        calibration_source=f"{len(feeds)} windows of {names or 'an example contract'}",
        tuning=AnnotatedFrames(),
        evaluation=AnnotatedFrames(),
        evaluation_source=f"{len(judged_on)} documents of {names}" if judged_on else "",
        simulated_truth=False,
        tuning_metric=DocumentMetric(chosen_on, manifest, tokenizer) if chosen_on else None,
        tuning_hash=_hash(chosen_on),
    )
    return inputs, DocumentMetric(judged_on, manifest, tokenizer) if judged_on else None


def _documents(data: Sequence[Path], fold: str) -> list[AnnotatedDocument]:
    found = [document for folder in data for document in load_documents(folder, fold)]
    if data and not found:
        raise CalibrationError(
            f"no documents in fold {fold!r}", expected="annotated documents", action="Give data with such a fold."
        )
    return found


def _hash(documents: Sequence[AnnotatedDocument]) -> str:
    """Returns the sha256 over texts and their values, hexadecimal; empty without documents."""
    values = [(one.text, {name: sorted(keys) for name, keys in one.values.items()}) for one in documents]
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest() if documents else ""


T = TypeVar("T")


def _divided(
    chosen: Sequence[AnnotatedDocument], judged: Sequence[AnnotatedDocument]
) -> tuple[list[AnnotatedDocument], list[AnnotatedDocument]]:
    """Returns documents to choose on and others to judge on: both folds may be one, and Kleister NDA has no folds.

    Raises:
        CalibrationError: None is left to judge on.
    """
    texts = {document.text for document in judged}
    shared = any(document.text in texts for document in chosen)
    chosen_on = _spread(chosen, min(TUNED_ON, max(1, len(chosen) // 2)) if shared else TUNED_ON)
    seen = {document.text for document in chosen_on}
    judged_on = _spread([document for document in judged if document.text not in seen], JUDGED_ON)
    if judged and not judged_on:
        raise CalibrationError(
            "no document is left to judge on",
            expected="documents to choose on and others to judge on",
            actual=f"{len(seen)} to choose on",
            action="Give more documents, or another judge_fold (--judge-fold).",
        )
    return chosen_on, judged_on


def _spread(items: Sequence[T], count: int) -> list[T]:
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]
