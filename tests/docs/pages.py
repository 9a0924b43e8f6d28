"""The Markdown pages of the repository: their links, headings, code spans and fenced blocks."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>[^\n]*)\n(?P<body>.*?)^(?P=indent)```", re.M | re.S)
_SPAN = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ +(.*?)\s*$", re.M)


@dataclasses.dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        path: Relative to the repository.
        text: Whole content.
    """

    path: str
    text: str

    @property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return _FENCE.sub("", self.text)

    def fences(self) -> Iterator[tuple[str, str]]:
        """Returns the kind and the body of each fenced block."""
        for match in _FENCE.finditer(self.text):
            indent = len(match["indent"])
            yield match["kind"], "".join(line[indent:] for line in match["body"].splitlines(keepends=True))

    def spans(self) -> list[str]:
        """Returns the code spans outside fenced blocks."""
        return _SPAN.findall(self.prose)

    def links(self) -> list[str]:
        """Returns the targets of all links that are not URLs."""
        prose = _SPAN.sub("", self.prose)
        return [match["target"] for match in LINK.finditer(prose) if "://" not in match["target"]]

    def anchors(self) -> set[str]:
        """Returns the anchors of the headings, as MkDocs and GitHub make them."""
        return {_slug(heading) for heading in _HEADING.findall(self.prose)}


def pages() -> list[Page]:
    """Returns every page that git tracks, except model cards."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    paths = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    found = [path for path in sorted(set(paths)) if not path.endswith("model_card.md") and (ROOT / path).is_file()]
    return [Page(path, (ROOT / path).read_text(encoding="utf-8")) for path in found]


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())
