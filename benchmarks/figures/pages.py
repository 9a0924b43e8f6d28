"""Finds the blocks of the pages, renders them and checks them."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.figures.blocks import Block
from benchmarks.figures.origin import Origins
from benchmarks.figures.results import FiguresError, Value, load

BEGIN = re.compile(r"<!-- figures: (?P<name>[a-z0-9_.-]+) -->")
BEGIN_START, END = "<!-- figures", "<!-- end figures -->"
CITED = re.compile(r"\bresults/(?P<name>[A-Za-z0-9_.,{}-]+\.(?:json|svg))")
PLACEHOLDER = "NAME.json"
NOT_MEASURED = ("skipped", "not_measured", "left_out")
"""Keys of a result that give the reason why the machine could not measure it."""
CARD, MANIFEST = "model_card.md", "manifest.json"


def pages(root: Path) -> Iterator[Path]:
    """Returns every Markdown page of the repository, sorted; hidden folders are left out."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "node_modules")
        yield from (Path(folder) / name for name in sorted(files) if name.endswith(".md"))


def rendered(text: str, blocks: Mapping[str, Block], origins: Origins) -> str:
    """Returns a page with every block rendered again.

    Raises:
        FiguresError: A marker is unknown, malformed or not closed, or a result file has another shape.
    """
    made: list[str] = []
    open_name = ""
    for number, line in enumerate(text.split("\n"), 1):
        begin = BEGIN.fullmatch(line)
        if line.startswith(BEGIN_START):
            if begin is None:
                raise FiguresError(f"line {number}: malformed marker {line!r}")
            if open_name:
                raise FiguresError(f"line {number}: block {open_name} is not closed before the next one")
            open_name = begin["name"]
            if open_name not in blocks:
                raise FiguresError(f"line {number}: unknown block {open_name}")
            made += [line, "", *_body(blocks[open_name], origins), ""]
        if line == END:
            if not open_name:
                raise FiguresError(f"line {number}: a block ends that did not begin")
            open_name = ""
        if not open_name:
            made.append(line)
    if open_name:
        raise FiguresError(f"block {open_name} is not closed")
    return "\n".join(made)


def _body(block: Block, origins: Origins) -> list[str]:
    """Returns the lines of a block: its table and a source line for each result file."""
    results = [(name, load(origins.root, name)) for name in block.results]
    missing = [name for name, result in results if result is None]
    if missing:
        return [f"Not measured: `python -m benchmarks {' '.join(missing)}` writes the figures."]
    try:
        table = block.render(*(result for _, result in results))
    except FiguresError as error:
        reasons = [reason for _, each in results if each for reason in _reasons(each)]
        if not reasons:
            raise FiguresError(f"block {block.name}: {error}") from error
        table = f"Not measured: {'; '.join(reasons)}."
    lines = [origins.line(name, result, ages=block.ages) for name, result in results if result is not None]
    return [*table.splitlines(), "", *"\n\n".join(lines).splitlines()]


def _reasons(result: Value) -> list[str]:
    """Returns why a machine could not measure a result or a part of it."""
    found = [result[key] for key in NOT_MEASURED if key in result]
    return [text for each in found for text in ([each.text] if each.is_text else [one.text for one in each.values()])]


def problems(root: Path, blocks: Mapping[str, Block]) -> Iterator[str]:
    """Returns the problems of every page: blocks that differ, markers, cited files, digests of model cards."""
    origins = Origins(root)
    for page in pages(root):
        name = page.relative_to(root).as_posix()
        text = page.read_text()
        try:
            new = rendered(text, blocks, origins)
        except FiguresError as error:
            yield f"{name}: {error}"
            continue
        if text != new:
            yield from _differences(name, text, new)
        yield from (f"{name}: cites {cited}, which does not exist" for cited in _absent(text, root))
        if page.name == CARD and not _is_described(page):
            yield f"{name}: {MANIFEST} describes another file; run make figures"


def write(root: Path, blocks: Mapping[str, Block]) -> list[Path]:
    """Renders the blocks of every page, and describes changed model cards in their manifests.

    Returns:
        The pages that changed.

    Raises:
        FiguresError: As for `rendered`, with the page's name.
    """
    changed = []
    origins = Origins(root)
    for page in pages(root):
        text = page.read_text()
        try:
            new = rendered(text, blocks, origins)
        except FiguresError as error:
            raise FiguresError(f"{page.relative_to(root).as_posix()}: {error}") from error
        if text != new:
            page.write_text(new)
            changed.append(page)
        if page.name == CARD and not _is_described(page):
            _describe(page)
    return changed


def _differences(page: str, old: str, new: str) -> Iterator[str]:
    """Returns a problem for each block of a page that differs."""
    for before, after in zip(_by_block(old), _by_block(new), strict=True):
        if before != after:
            name, lines = before
            diff = difflib.unified_diff(lines, after[1], page, "rendered from the results", lineterm="", n=0)
            yield "\n".join([f"{page}: block {name} differs from its results; run make figures", *diff])


def _by_block(text: str) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in text.splitlines():
        if begin := BEGIN.fullmatch(line):
            found.append((begin["name"], []))
        inside = (inside or begin is not None) and line != END
        if inside:
            found[-1][1].append(line)
    return found


def _absent(text: str, root: Path) -> list[str]:
    """Returns the result files that a page cites and that do not exist."""
    cited = {name for match in CITED.finditer(text) for name in _expanded(match["name"])}
    cited.discard(PLACEHOLDER)
    return sorted(name for name in cited if not (root / "benchmarks" / "results" / name).is_file())


def _expanded(name: str) -> list[str]:
    """Returns the names that braces stand for, as a shell does: ``{a,b}.json`` is ``a.json`` and ``b.json``."""
    parts = re.split(r"\{([^{}]*)\}", name)
    choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _is_described(card: Path) -> bool:
    """Whether the manifest beside a model card, if there is one, names the card's hash."""
    manifest = card.with_name(MANIFEST)
    if not manifest.is_file():
        return True
    sha256: object = json.loads(manifest.read_bytes())["files"].get(CARD, {}).get("sha256")
    return sha256 == hashlib.sha256(card.read_bytes()).hexdigest()


def _describe(card: Path) -> None:
    """Writes the manifest of a bundle anew, with the size and hashes of its model card."""
    from lineside_runtime.bundle import parse_manifest, write_manifest  # needed where a card has changed only

    write_manifest(card.parent, parse_manifest(card.with_name(MANIFEST).read_bytes()))
