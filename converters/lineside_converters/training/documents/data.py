"""Windows with labels, and the documents that are held out to choose and to calibrate on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lineside_models.nlp.document_sets.annotations import AnnotatedDocument, AnnotatedSpan
from lineside_models.nlp.document_sets.loading import load_documents
from lineside_models.nlp.extraction.windows import TextWindows, TokenWindow
from lineside_runtime.errors import DatasetError

OUTSIDE, BEGIN, INSIDE = 0, 1, 2

EMPTY_SHARE = 0.5
"""Of the windows without a mention, those that are trained on."""

Tags = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelledWindow:
    """A window and the tag ``(T - 2, types)`` of each of its tokens and each type."""

    window: TokenWindow
    tags: Tags


@dataclass(frozen=True, slots=True)
class DocumentData:
    """Documents of a run.

    Attributes:
        labels: Entity types, in the order of the outputs.
        trained: Documents of `train`.
    """

    labels: tuple[str, ...]
    windows: TextWindows
    train: tuple[LabelledWindow, ...]
    held: tuple[AnnotatedDocument, ...]
    trained: tuple[AnnotatedDocument, ...]


def load_document_data(
    folders: Sequence[Path],
    windows: TextWindows,
    labels: Sequence[str],
    *,
    held_share: float,
    seed: int,
    held_number: int = 0,
    whole: bool = False,
) -> DocumentData:
    """Reads the train folds and holds out a share of their groups.

    Args:
        labels: Entity types.
        seed: Of the order of the groups, and of the windows without a mention that are left out.
        held_number: Which of the shares, see `split_groups`.
        whole: Whether no document is held out.

    Raises:
        DatasetError: A folder is damaged, or there are too few documents.
    """
    documents = [document for folder in folders for document in load_documents(folder, "train")]
    trained, held = split_groups(documents, held_share, seed, held_number)
    if whole and held:
        trained, held = documents, []
    elif not trained or not held:
        raise DatasetError(
            "too few documents to train on",
            expected="annotated documents of two groups in the fold train",
            actual=f"{len(documents)} documents of {len({one.group for one in documents})} groups",
            action="Annotate more documents, or give documents of different sources different groups.",
        )
    labelled = [one for document in trained for one in labelled_windows(document, windows, labels)]
    labelled = _fewer_empty(labelled, seed)
    return DocumentData(tuple(labels), windows, tuple(labelled), tuple(held), tuple(trained))


def split_groups(
    documents: Iterable[AnnotatedDocument], share: float, seed: int, number: int = 0
) -> tuple[list[AnnotatedDocument], list[AnnotatedDocument]]:
    """Returns the documents to train on and those that are held out; a group is never in both.

    Args:
        documents: Of train folds.
        seed: Of the order of the groups.
        number: Which of the shares that have no document in common, from 0; the last one holds all that are left.
    """
    documents = list(documents)
    groups = sorted({document.group for document in documents}, key=lambda name: _order(name, seed))
    last = max(1, round(1 / share) - 1)
    held: set[str] = set()
    before = 0
    for group in groups:
        if min(last, int(before / (share * len(documents)))) == number:
            held.add(group)
        before += sum(document.group == group for document in documents)
    return [one for one in documents if one.group not in held], [one for one in documents if one.group in held]


def _fewer_empty(labelled: Sequence[LabelledWindow], seed: int) -> list[LabelledWindow]:
    """Returns the windows, of those without a mention only some: they cost as much and teach little."""
    rng = np.random.default_rng(seed)
    return [one for one in labelled if one.tags.any() or rng.random() < EMPTY_SHARE]


def _order(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {group}".encode()).hexdigest()


def labelled_windows(document: AnnotatedDocument, windows: TextWindows, labels: Sequence[str]) -> list[LabelledWindow]:
    """Returns the windows that the model will be given, and one around each mention that none of them shows."""
    found = windows(document.text)
    for span in document.spans:
        if span.type in labels and not any(_shows(window, span) for window in found):
            found.append(windows.around(document.text, span.start))
    return [LabelledWindow(window, tags_of(window, document.spans, labels)) for window in found]


def _shows(window: TokenWindow, span: AnnotatedSpan) -> bool:
    return bool(window.offsets[0, 0] <= span.start and span.end <= window.offsets[-1, 1])


def tags_of(window: TokenWindow, spans: Iterable[AnnotatedSpan], labels: Sequence[str]) -> Tags:
    """Returns the tag of each token and type: outside, begin or inside."""
    tags = np.full((len(window.offsets), len(labels)), OUTSIDE, np.int64)
    for span in spans:
        if span.type not in labels:
            continue
        inside = (window.offsets[:, 1] > span.start) & (window.offsets[:, 0] < span.end)
        places = np.flatnonzero(inside)
        if len(places):
            tags[places, labels.index(span.type)] = INSIDE
            if window.offsets[places[0], 0] <= span.start:
                tags[places[0], labels.index(span.type)] = BEGIN
    return tags
