"""Classes of a classifier that mean a good part, given or recognised by name.

A classifier whose classes exclude each other (softmax) passes a part only where a class of good parts is the likeliest.
What none of its defects reaches and no class of good parts claims is unsure: see `lineside_models.verdict.decision`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from lineside_models.postprocess.candidates import read
from lineside_models.postprocess.decoders.classification import ClassificationParams
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import ConfigError

DECODER = "classification"

_NAMES = frozenset(
    {"good", "ok", "okay", "io", "pass", "passed", "normal", "clean", "faultless", "flawless", "nodefect", "nodefects"}
)
_LAST = "free"  # MT_Free, defect-free


def names_good_part(name: str) -> bool:
    """Returns whether a class's name means good parts, such as ``good``, ``OK`` or ``MT_Free``."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "".join(words) in _NAMES or (words[-1:] == [_LAST] and "not" not in words)


def good_of(how: Postprocess) -> tuple[int, ...]:
    """Returns the indices of the labels that mean a good part; none for other heads than classifiers'."""
    return read(how.params, ClassificationParams).good if how.name == DECODER else ()


def names_of_good(how: Postprocess, labels: Sequence[str]) -> str:
    """Returns the names of a classifier's classes of good parts in words; empty if it has none."""
    return " and ".join(labels[index] for index in good_of(how) if index < len(labels))


def with_good_classes(how: Postprocess, labels: Sequence[str], given: Sequence[str] | None = None) -> Postprocess:
    """Returns a classifier's post-processing with its classes of good parts; another head's unchanged.

    Args:
        given: The classes' names; empty where every class is a defect. ``None`` keeps what ``how`` says, and goes by
            the names where it says nothing.

    Raises:
        ConfigError: A name is none of the labels, all classes are good (stated or by their names), or the model is no
            classifier.
    """
    if how.name != DECODER:
        if given:
            raise ConfigError("good_classes", expected="a classifier", actual=f"a model with the head {how.name}")
        return how
    stated = given is None and "good" in how.params
    if stated:
        names = [labels[index] for index in good_of(how) if index < len(labels)]
    else:
        names = [name for name in labels if names_good_part(name)] if given is None else list(given)
    unknown = [name for name in names if name not in labels]
    if unknown:
        raise ConfigError(f"good class {unknown[0]!r}", expected=f"of {', '.join(labels)}", actual=unknown[0])
    if names and len(set(names)) == len(labels):
        raise ConfigError(
            "every class of the model means a good part",
            expected="at least one class that is a defect",
            actual=", ".join(labels),
            action="Name the classes of good parts by --good-class, or say --no-good-class if all are defects; in the "
            ".toml file beside a bare model, list their indices, such as good = [0], under [postprocess.params].",
        )
    if stated or (given is None and not names):
        return how
    params = {name: value for name, value in how.params.items() if name != "good"}
    params["good"] = sorted({labels.index(name) for name in names})
    return msgspec.structs.replace(how, params=params)


def passes_nothing(how: Postprocess) -> bool:
    """Returns whether a classifier has no class of good parts, so that a part is bad or unsure and never good."""
    if how.name != DECODER:
        return False
    params = read(how.params, ClassificationParams)
    return params.excludes and not params.good and not params.first_class


def rule_of(how: Postprocess, labels: Sequence[str]) -> str:
    """Returns a sentence that says which parts a classifier passes; empty for other models."""
    if how.name != DECODER:
        return ""
    params = read(how.params, ClassificationParams)
    good = names_of_good(how, labels).replace(" and ", " or ")
    if not params.excludes:
        return "A part passes if no class of defects reaches its threshold."
    if good:
        return f"A part passes if {good} is the likeliest class and no defect reaches its threshold; else it is unsure."
    if params.first_class:
        return "A part passes if the background is likelier than every class; below the thresholds it is unsure."
    return (
        "Every class is a defect: a part on which none reaches its threshold is unsure and does not pass. "
        "A class of good parts is named with --good-class."
    )
