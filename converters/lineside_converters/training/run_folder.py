"""Folder of a training run: its files, and whether a call may write there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lineside_converters.loading.training_run import FACTS, GRAPH, WEIGHTS
from lineside_converters.training.settings import USED, TrainingSettings, read_settings, travelling, write_settings
from lineside_runtime.errors import ConfigError, InputError, LinesideError, TrainingError

CHECKPOINT = "checkpoint.pt"
RESULTS = (WEIGHTS, GRAPH, "tables.npz", FACTS)
"""Results of a run beside its checkpoint."""

TRIALS = "architectures.json"
TRIALS_FOLDER = "trials"

S = TypeVar("S", bound=TrainingSettings)

FIXED = (
    "data",
    "group",
    "held_share",
    "held_number",
    "val_share",
    "side_px",
    "width",
    "widths",
    "channels",
    "colour",
    "architecture",
    "random_weights",
    "framing",
    "labels",
    "start",
    "reference",
    "schema",
    "encoder",
    "frozen_layers",
    "cross_fit",
    "item_features",
    "user_features",
    "attention_heads",
    "history_max",
    "pooling",
)
"""Settings of the data and of the network that a resumed run must keep; of files the names count."""


def check_run_folder(settings: TrainingSettings) -> None:
    """Refuses to overwrite a run unless its settings ask for it, and to resume one with other data or another network.

    Raises:
        InputError: The folder holds a run, and neither ``resume`` nor ``overwrite`` is given; or a finished one that
            has no checkpoint to resume from.
        ConfigError: Both are.
        TrainingError: The run was begun with other data or another network.
    """
    if settings.resume and settings.overwrite:
        raise ConfigError("resume and overwrite", expected="one of them")
    if settings.resume:
        _check_same(settings)
        if (settings.out / FACTS).exists() and not (settings.out / CHECKPOINT).exists():
            raise InputError(
                f"{settings.out} holds a finished training run that can't go on",
                expected=CHECKPOINT,
                action="Begin again in its place by --overwrite, or give another --out.",
            )
        return
    trials = (TRIALS,) if getattr(settings, "architectures", ()) else ()
    found = [name for name in (CHECKPOINT, *RESULTS, *trials) if (settings.out / name).exists()]
    if found and not settings.overwrite:
        raise InputError(
            f"{settings.out} holds a training run",
            expected="a folder without one",
            actual=", ".join(found),
            action="Go on with it by --resume, begin again in its place by --overwrite, or give another --out.",
        )


def resumed_or_begun(settings: S) -> S:
    """Returns the settings of a run that goes on from its checkpoint, and begins where there is none yet.

    For a folder of the caller's own, where an unfinished result without a checkpoint is of no use.
    """
    resume = (settings.out / CHECKPOINT).is_file()
    return msgspec.structs.replace(settings, resume=resume, overwrite=not resume)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Makes the folder, and removes it again if what follows fails before anything is written there."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        raise


def prepare_run_folder(settings: TrainingSettings) -> None:
    """Writes the settings into the folder, and deletes the results of an earlier run unless it is resumed."""
    for name in () if settings.resume else (CHECKPOINT, *RESULTS):
        (settings.out / name).unlink(missing_ok=True)
    write_settings(settings)


def _check_same(settings: TrainingSettings) -> None:
    begun = _begun(settings)
    if begun is None:
        return
    chosen = {"architecture"} if getattr(settings, "architectures", ()) else set()  # by the trials of this run
    for name in sorted(set(FIXED) - chosen, key=FIXED.index):
        before, now = (travelling(getattr(one, name, None)) for one in (begun, settings))
        if before != now:
            raise TrainingError(
                f"the run in {settings.out} can't go on with another {name}",
                expected=before,
                actual=now,
                action=f"Leave {name} out, which --resume reads from {settings.out / USED}, or begin another run.",
            )


def _begun(settings: TrainingSettings) -> TrainingSettings | None:
    """Returns the settings that the run was begun with; ``None`` if they cannot be read."""
    file = settings.out / USED
    try:
        return read_settings(type(settings), file, {"out": settings.out})
    except (LinesideError, msgspec.MsgspecError):
        return None


def _has_begun(out: Path) -> bool:
    trials = out.glob(f"{TRIALS_FOLDER}/*/{CHECKPOINT}")
    return (out / CHECKPOINT).exists() or (out / TRIALS).exists() or any(trials)


def how_to_resume(kind: str, given: dict[str, Any]) -> str:
    """Returns the message after Ctrl-C.

    Args:
        kind: Kind of model, as in ``lineside train KIND``.
        given: The call's options by name.
    """
    out, config = given.get("out"), given.get("config")
    if out is not None and not given.get("workers") and not _has_begun(out):
        return "stopped before the first epoch ended: there is nothing to resume"
    words = ["lineside train", kind, f"--out {out}" if out is not None else f"--config {config}", "--resume"]
    words += [f"--workers {given['workers']}"] if given.get("workers") else []
    then = ", with the same --then and its options" if given.get("then") else ""
    return f"stopped; it goes on after the last whole epoch by: {' '.join(words)}{then}"
