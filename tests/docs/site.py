"""MkDocs hook: files of the repository that a page links to become part of the site, below ``repository/``."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from tests.docs.pages import LINK, ROOT

OUTSIDE = "repository/"


def on_files(files: Any, config: Any) -> Any:
    """Adds every file outside ``docs/`` that a page, or an added page, links to."""
    from mkdocs.structure.files import File

    waiting = [f"docs/{file.src_uri}" for file in files if file.src_uri.endswith(".md")]
    while waiting:
        page = waiting.pop()
        for target in _targets(page):
            uri = _uri(target)
            if uri.startswith(OUTSIDE) and files.get_file_from_path(uri) is None and (ROOT / target).is_file():
                files.append(File.generated(config, uri, content=(ROOT / target).read_bytes()))
                waiting += [target] if target.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Points the links of a page to where their targets are in the site."""
    here = page.file.src_uri
    path = here.removeprefix(OUTSIDE) if here.startswith(OUTSIDE) else f"docs/{here}"

    def moved(match: re.Match[str]) -> str:
        target, hash_, anchor = match["target"].partition("#")
        if "://" in target or not target:
            return match[0]
        uri = _uri(posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
        return match[0].replace(match["target"], posixpath.relpath(uri, posixpath.dirname(here)) + hash_ + anchor)

    return LINK.sub(moved, markdown)


def _targets(page: str) -> list[str]:
    links = [match["target"].partition("#")[0] for match in LINK.finditer((ROOT / page).read_text(encoding="utf-8"))]
    local = [link for link in links if link and "://" not in link]
    return [posixpath.normpath(posixpath.join(posixpath.dirname(page), link)) for link in local]


def _uri(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else OUTSIDE + path
