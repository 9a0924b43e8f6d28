"""Check names and sizes of the product's code: ``python -m tests.ci.structure``.

A public class name stands for one thing in all components; functions, files and packages stay readable. The limits are
those of CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPONENTS = ("lineside", "runtime", "models", "agent", "boards", "converters", "link", "hub")
FUNCTION_LINES, FILE_LINES, PACKAGE_FILES = 60, 600, 16
MIGRATIONS = "hub/lineside_hub/migrations/versions"
"""A revision each: one that a database may have must stay, so there is no limit."""
RESOLVE_SHIPPED_NAMES = {"lineside/benchmark.py", "lineside/shipped.py"}
"""Subclasses under the name of their base: they take the name of a shipped bundle, too."""


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """Yields path relative to ``root`` and text of each Python file of the product."""
    for component in COMPONENTS:
        for path in sorted((root / component).rglob("*.py")):
            yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def problems(files: Iterator[tuple[str, str]]) -> list[str]:
    """Returns what exceeds a limit or is named twice, one line each."""
    found: list[str] = []
    classes: dict[str, list[str]] = defaultdict(list)
    packages: dict[str, int] = defaultdict(int)
    for path, text in files:
        packages[path.rpartition("/")[0]] += not path.endswith("/__init__.py")
        if (lines := text.count("\n")) > FILE_LINES:
            found.append(f"{path}: {lines} lines, at most {FILE_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].extend([f"{path}:{node.lineno}"] if path not in RESOLVE_SHIPPED_NAMES else [])
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    found.append(f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {FUNCTION_LINES}")
    found += [f"{name} is the name of several classes: {', '.join(at)}" for name, at in classes.items() if len(at) > 1]
    found += [
        f"{name}: {n} files, at most {PACKAGE_FILES}"
        for name, n in packages.items()
        if n > PACKAGE_FILES and name != MIGRATIONS
    ]
    return found


def main() -> int:
    """Prints what is wrong; returns 1 if there is anything."""
    found = problems(sources(ROOT))
    if found:
        sys.stderr.write("\n".join(found) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
