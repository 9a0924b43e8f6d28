"""Folds of corrected frames: frames of one group stay together and keep their fold.

A group is a part, or what a pattern finds in its id, such as its lot: similar frames in both folds would make a model
look better than it is. The fold follows from a hash of the group's name, so that new frames do not move others.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path

from lineside_runtime.errors import ConfigError, DatasetError

TRAIN, VAL = "train", "val"


def group_of(part_id: str, pattern: str) -> str:
    """Returns the group of a part.

    Args:
        pattern: A regular expression, whose first group or whole match is used; empty for the part's id.
    """
    found = re.search(pattern, part_id) if pattern else None
    return part_id if found is None else (found[1] or "" if found.re.groups else found[0]) or part_id


def check_pattern(pattern: str) -> None:
    """Raises `ConfigError` if a pattern is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"group pattern {pattern!r}: {error}", expected="a regular expression") from error


def assign(groups: Mapping[str, str], known: Mapping[str, str], *, val_share: float) -> dict[str, str]:
    """Returns the fold of each image.

    Args:
        groups: Image to group, of all images.
        known: Image to fold, for images that have one; their groups keep it.
        val_share: Share of the groups that go to ``val``, 0 to 1.
    """
    fold_of = {groups[image]: fold for image, fold in sorted(known.items()) if image in groups}
    new = sorted({group for group in groups.values() if group not in fold_of}, key=_position)
    fold_of |= {group: VAL if _position(group) < val_share else TRAIN for group in new}
    # An empty fold cannot be read: with few groups, the nearest one goes there.
    if 0 < val_share < 1 and len(fold_of) > 1 and new:
        if VAL not in fold_of.values():
            fold_of[new[0]] = VAL
        if TRAIN not in fold_of.values():
            fold_of[new[-1]] = TRAIN
    return {image: fold_of[group] for image, group in groups.items()}


def _position(group: str) -> float:
    """Returns a number from 0 to 1 that depends only on the name."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64


def read(path: Path) -> dict[str, str]:
    """Reads ``folds.csv``: image to fold; empty if there is none."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, 2):
        if not row.get("image") or not re.fullmatch(r"[A-Za-z0-9._-]+", row.get("fold") or ""):
            raise DatasetError(f"{path}: line {number}", expected="an image and its fold", actual=dict(row))
    return {row["image"]: row["fold"] for row in rows}


def encode(fold_of: Mapping[str, str], groups: Mapping[str, str]) -> bytes:
    """Returns ``folds.csv``.

    Args:
        fold_of: Image to fold.
        groups: Image to group.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "fold", "group"))
    writer.writerows((image, fold, groups[image]) for image, fold in sorted(fold_of.items()))
    return text.getvalue().encode()
