"""Words of log lines, error texts and help: those that confused people do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFUSING = re.compile(r"\b(wish(es)?|generation|epoch|gives? up|given up|laid over|ballast)\b", re.IGNORECASE)
SQL = ("SELECT", "INSERT", "UPDATE")


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yields every text of several words in a file, except docstrings and SQL, with its line."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
            continue
        if " " in node.value and not node.value.lstrip().startswith(SQL):
            yield node.lineno, node.value


@pytest.mark.parametrize("name", ["agent/lineside_agent", "lineside/commands"])
def test_texts_for_people_use_the_words_of_the_field(name: str) -> None:
    files = [
        path for path in (ROOT / name).rglob("*.py") if name.startswith("agent") or path.parent.name.startswith("agent")
    ]
    assert len(files) >= 5
    found = [(path.name, line, text) for path in files for line, text in texts_of(path) if CONFUSING.search(text)]
    assert found == []
