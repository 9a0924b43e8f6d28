"""Settings of every training run, and their TOML file.

::

    data = ["../parts", "../boards"]   # relative paths start at this file
    epochs = 80
    learning_rate = 1e-3
    balance = 0.1

An unknown key is an error that names it. Options of the command line override the file. The settings of a run are
written beside its result, as ``config.toml``, so that it can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from lineside_converters.settings import CheckedSettings
from lineside_runtime.config_errors import config_error
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError, InputNotFoundError
from lineside_runtime.files import write_atomic

FilePath = Annotated[Path, msgspec.Meta(extra_json_schema={"type": "string"})]

USED = "config.toml"
"""File of a run's settings, beside its result."""

_OF_THE_CALL = ("out", "resume", "overwrite")  # they belong to one call, not to the run that another call repeats
_PATHS = ("data", "out", "start")


class TrainingSettings(CheckedSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of every training.

    Attributes:
        data: Folders of data sets that `lineside_models.datasets` knows; only their train folds are read.
        out: Folder for checkpoints and results; made if it is not there.
        epochs: Passes over the data.
        minutes: Wall time after which the schedule ends early but whole: the learning rate still falls to its end.
        seed: Seed; with ``minutes=None`` two runs on one machine give the same weights.
        batch: Pictures a step.
        learning_rate: Peak.
        held_share: Share of the train folds that is held out to choose the checkpoint.
        held_number: Which of the shares of that size that have no part in common is held out, from 0; ``None`` for a
            fixed one. Cross-validation holds each of them out once.
        val_share: Share of a data set without folds that becomes its val fold, which no training reads.
        group: A regular expression on the file's path below the data set's folder: images whose first groups are the
            same show one part and stay together. Empty: the column ``group`` of ``folds.csv``, or one whose name ends
            in ``_group``; without one, each file is a part of its own.
        evaluate_every: Epochs between evaluations on the held share.
        threads: Of torch.
        resume: Continue from ``out/checkpoint.pt``.
        overwrite: Begin again where a run stands in ``out``: its results are deleted before the first step.
        start: A model to start from: a bundle, an ONNX file or the folder of a finished run.
    """

    data: tuple[FilePath, ...]
    out: FilePath
    epochs: int = 60
    minutes: float | None = None
    seed: int = 0
    batch: int = 24
    learning_rate: float = 1.2e-3
    held_share: float = 0.08
    held_number: int | None = None
    val_share: float = 0.15
    group: str = ""
    evaluate_every: int = 4
    threads: int = 2
    resume: bool = False
    overwrite: bool = False
    start: FilePath | None = None

    def __post_init__(self) -> None:
        self._check("data", bool(self.data), "at least one folder")
        self._check("epochs", self.epochs >= 1, "1 or more")
        self._check("minutes", self.minutes is None or self.minutes > 0, "more than 0, or None")
        self._check("seed", self.seed >= 0, "0 or more")
        self._check("learning_rate", 0 < self.learning_rate < 1, "between 0 and 1")
        self._check("held_share", 0.01 <= self.held_share <= 0.5, "between 0.01 and 0.5")
        shares = max(2, round(1 / self.held_share))
        self._check("held_number", self.held_number is None or 0 <= self.held_number < shares, f"0 to {shares - 1}")
        self._check("val_share", 0.01 <= self.val_share <= 0.5, "between 0.01 and 0.5")
        self._check("evaluate_every", self.evaluate_every >= 1, "1 or more")
        self._check("threads", self.threads >= 1, "1 or more")

    @property
    def first_model(self) -> Path | None:
        """Model that the run starts from; ``None`` for a network built by the trainer."""
        return self.start

    def as_dict(self) -> dict[str, Any]:
        """Returns the settings for ``training.json``, without this machine's paths."""
        return {name: travelling(getattr(self, name)) for name in self.__struct_fields__ if name != "overwrite"}


S = TypeVar("S", bound=TrainingSettings)


def read_settings(kind: type[S], file: Path | None, given: Mapping[str, Any]) -> S:
    """Returns the settings of a run: those of the file, overridden by the given ones.

    With ``resume`` and no file, the settings that the run in ``out`` was begun with are read.

    Args:
        file: TOML; ``None`` for none.
        given: Fields of ``kind`` that come before the file's; relative paths in it start at the working folder.

    Raises:
        InputNotFoundError: The file is not there.
        ConfigError: It is not TOML, has an unknown key or a value of a wrong type, or a required one is missing.
        TrainingError: A value is out of range.
    """
    if file is None and given.get("resume") and "out" in given and (given["out"] / USED).is_file():
        file = given["out"] / USED
    values = ({} if file is None else _read(file)) | dict(given)
    try:
        return msgspec.convert(values, kind, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        where = "the settings" if file is None else str(file)
        raise config_error(
            error,
            kind,
            values,
            where=where,
            action="Say it in the file of --config or by hand; `lineside config schema train-detector` (or "
            "train-classifier, train-segmenter) lists what can be said.",
        ) from error


def write_settings(settings: TrainingSettings) -> None:
    """Writes the settings beside the result, so that ``--config out/config.toml --out elsewhere`` repeats the run.

    The file holds paths of this machine, and stays on it: no bundle takes it in.
    """
    import tomli_w

    values = {name: getattr(settings, name) for name in settings.__struct_fields__ if name not in _OF_THE_CALL}
    plain = {name: _plain(value) for name, value in values.items() if value is not None}
    write_atomic(settings.out / USED, tomli_w.dumps(plain).encode())


def _read(file: Path) -> dict[str, Any]:
    try:
        content = decode_toml(file.read_bytes())
    except OSError as error:
        raise InputNotFoundError(f"{file}: {error.strerror}", action="Give the path of a TOML file.") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    folder = file.resolve().parent
    for name in _PATHS:
        value = content.get(name)
        if isinstance(value, str):
            content[name] = str(folder / value)
        elif isinstance(value, list):
            content[name] = [str(folder / one) if isinstance(one, str) else one for one in value]
    return dict(content)


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is Path and isinstance(value, Path):
        return value
    raise ValueError(f"expected a path, got {type(value).__name__}")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.resolve().as_posix()
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value


def travelling(value: Any) -> Any:
    """Returns a setting's value without this machine's paths: of files only the names."""
    if isinstance(value, Path):
        return value.name
    return [travelling(one) for one in value] if isinstance(value, (tuple, list)) else value
