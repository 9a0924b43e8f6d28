"""Write ``docs/reference/errors.md`` from the error classes: ``python -m tests.runtime.errors_page``."""

from __future__ import annotations

import inspect
from pathlib import Path

from lineside_runtime import errors
from lineside_runtime.errors import LinesideError

PAGE = Path(__file__).parents[2] / "docs/reference/errors.md"

TITLES = {
    1: "the processor or its engine",
    2: "what was given to us",
    3: "bundle, signature, compatibility",
    4: "store, sync",
    5: "update, rollout",
    6: "converter, gates",
    7: "board, flashing, provisioning",
    8: "demo",
}

HEAD = """\
# Errors

Every error that a user can meet is a class of `lineside_runtime.errors`, in one tree under `LinesideError`, with a
`code` of its own that is never given to another. It says what was expected, what was found and what to do next
(`message`, `expected`, `actual`, `action`); the vendor's own exception is its `__cause__`. `as_dict()` is its form in
JSON, as `--json` prints it. A class catches those below it: `except DeviceError` catches all of 1xxx.

What stands under "do next" is said where the place that raises it knows nothing better. This page is made from the
code by `python -m tests.runtime.errors_page`.
"""


def classes() -> list[type[LinesideError]]:
    """Returns every class with a code, by code."""
    found = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, LinesideError)]
    return sorted((kind for kind in found if kind.code), key=lambda kind: kind.code)


def render() -> str:
    """Returns the page."""
    lines = [HEAD]
    for family, title in TITLES.items():
        lines += [
            f"## {family}xxx: {title}",
            "",
            "| code | class | what it means | do next |",
            "| --- | --- | --- | --- |",
        ]
        for kind in classes():
            if kind.code // 1000 == family:
                meaning = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
                lines.append(f"| {kind.code} | `{kind.__name__}` | {meaning} | {kind.default_action} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Writes the page."""
    PAGE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
