"""The reference of the error codes."""

from __future__ import annotations

import inspect

from lineside_boards import errors as board_errors
from lineside_runtime import errors
from lineside_runtime.errors import LinesideError
from tests.docs.tables import table

TITLES = {
    1: "processor and engine",
    2: "input and configuration",
    3: "bundle, signature, compatibility",
    4: "storage and synchronization",
    5: "update and rollout",
    6: "conversion and gates",
    7: "boards, flashing, provisioning",
    8: "demo",
}


def classes() -> list[type[LinesideError]]:
    """Returns every class with a code, by code."""
    named = {**vars(errors), **vars(board_errors)}.values()
    found = [value for value in named if inspect.isclass(value) and issubclass(value, LinesideError)]
    return sorted((kind for kind in found if kind.code), key=lambda kind: kind.code)


def render() -> str:
    """Returns a section for each family of codes."""
    return "\n\n".join(_section(family, title) for family, title in TITLES.items())


def _section(family: int, title: str) -> str:
    rows = []
    for kind in classes():
        if kind.code // 1000 == family:
            meaning = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
            rows.append((str(kind.code), f"`{kind.__name__}`", meaning, kind.default_action))
    return f"## {family}xxx: {title}\n\n{table(('code', 'class', 'meaning', 'default action'), rows)}"
