"""Values of a gauge study: read from a CSV file, or measured by a rule in frames, and laid out for the analysis."""

from __future__ import annotations

import collections
import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array
from lineside_models.image_file import SUFFIXES
from lineside_models.metrology.measurement import Measurement
from lineside_models.vision.images import read_image
from lineside_runtime.errors import ConfigError, InputNotFoundError, MeasurementError

Floats = npt.NDArray[np.float64]

_COLUMNS = {"operator": "operator", "appraiser": "operator", "part": "part", "trial": "trial", "value": "value"}
_EXPECTED = "a header with the columns part, value and, where there are several, operator; trial is optional"


class Reading(NamedTuple):
    """One value of a study."""

    operator: str
    part: str
    value: float


class StudyData(NamedTuple):
    """Values of a study in which each operator measured each part equally often.

    Attributes:
        values: ``(operators, parts, trials)``.
    """

    values: Floats
    operators: tuple[str, ...]
    parts: tuple[str, ...]


def read_readings(path: Path) -> list[Reading]:
    """Reads a CSV file, separated by comma, semicolon or tab; with semicolons a decimal comma is read too.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: It is not such a table; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}", action="Give a CSV file.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text", expected="a CSV file in UTF-8", action="") from error
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        rows = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise ConfigError(f"{path}: {error}", expected="a CSV file", action="") from error
    names = [_COLUMNS.get(name.strip().lower(), "") for name in (rows[0][1] if rows else ())]
    if "part" not in names or "value" not in names:
        raise ConfigError(f"{path} line 1", expected=_EXPECTED, actual=head.strip()[:200] or "nothing", action="")
    for name in filter(None, names):
        if names.count(name) > 1:
            expected, actual = f"one {name} column", head.strip()[:200]
            raise ConfigError(f"{path} line 1", expected=expected, actual=actual, action="Rename or remove the others.")
    found = []
    trials: set[tuple[str, ...]] = set()
    for line, cells in rows[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        if any(cells[len(names) :]):
            raise ConfigError(
                f"{path} line {line} has more cells than the header",
                expected=f"{len(names)} cells",
                actual=separator.join(cells)[:200],
                action="With decimal commas, separate the cells by semicolons.",
            )
        row = dict(zip(names, cells, strict=False))
        written = row.get("value", "").strip()
        try:
            value = float(written.replace(",", ".") if separator == ";" else written)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ConfigError(f"{path} line {line}: value", expected="a number", actual=written, action="")
        found.append(Reading(row.get("operator", "").strip(), row.get("part", "").strip(), value))
        trial = (*found[-1][:2], row.get("trial", "").strip())
        if trial[-1] and trial in trials:
            expected, actual = "one value of each trial", f"trial {trial[-1]} of {_named(trial[:2])} once more"
            raise ConfigError(f"{path} line {line}", expected=expected, actual=actual, action="Correct the table.")
        trials.add(trial)
    return found


def measured_readings(
    folder: Path,
    measure: Callable[[UInt8Array], tuple[Measurement, ...]],
    *,
    on_frame: Callable[[int, int], object] = lambda done, count: None,
) -> list[Reading]:
    """Measures the frames of a study.

    Args:
        folder: With frames in folders by part, ``PART/FRAME.png``, or by operator and part, ``OPERATOR/PART/…``;
            frames without a folder are of one part.
        on_frame: Called with the number of measured frames and of all.

    Raises:
        InputNotFoundError: There is no frame.
        ConfigError: A frame lies in more folders than those of an operator and a part.
        MeasurementError: A frame could not be measured; the message names it.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputNotFoundError(f"no frame in {folder}", expected="PART/FRAME.png or OPERATOR/PART/FRAME.png")
    found = []
    deep = next((path for path in files if len(path.relative_to(folder).parts) > 3), None)
    if deep is not None:
        actual = deep.relative_to(folder)
        raise ConfigError("folders of the study", expected="at most OPERATOR/PART/FRAME.png", actual=actual, action="")
    for number, path in enumerate(files, 1):
        (one,) = measure(read_image(path))
        if one.value is None:
            raise MeasurementError(f"{path}: {one.error}", action="Take the frame again, or correct the rule.")
        of = ("", "", *path.relative_to(folder).parts[:-1])[-2:]
        found.append(Reading(of[0], of[1], one.value))
        on_frame(number, len(files))
    return found


def crossed(readings: Sequence[Reading]) -> StudyData:
    """Lays values out by operator, part and trial.

    Raises:
        ConfigError: There is none, or not each operator measured each part equally often.
    """
    operators = tuple(dict.fromkeys(one.operator for one in readings))
    parts = tuple(dict.fromkeys(one.part for one in readings))
    cells: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for one in readings:
        cells[one.operator, one.part].append(one.value)
    counts = {key: len(cells.get(key, ())) for key in _pairs(operators, parts)}
    if not readings or len(set(counts.values())) != 1:
        usual = collections.Counter(counts.values()).most_common(1)[0][0] if counts else 0
        odd = next((f"{counts[key]} of {_named(key)}" for key in counts if counts[key] != usual), "no value")
        expected = f"each operator measures each part equally often, here {usual} times"
        raise ConfigError("the study is not complete", expected=expected, actual=odd, action="Add what is missing.")
    values = np.array([[cells[operator, part] for part in parts] for operator in operators])
    return StudyData(values, operators, parts)


def _pairs(operators: Sequence[str], parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((operator, part) for operator in operators for part in parts)


def _named(key: tuple[str, str]) -> str:
    return f"part {key[1]}" + (f" by operator {key[0]}" if key[0] else "")
