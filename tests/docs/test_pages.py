"""What the pages say is there: links, files, modules, commands, options, targets of make, configurations."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lineside_agent.config import parse_config
from lineside_hub.config import HubConfig
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle
from tests.docs.__main__ import main
from tests.docs.cli import parsers
from tests.docs.pages import ROOT, Page, pages

PAGES = pages()
WRITTEN = [page for page in PAGES if not page.path.startswith(("docs/adr/0", "docs/reference/cli.md"))]
"""Without what is rendered from the code, and without decisions, which say what was so on their day."""
PACKAGES = [path.parent for path in sorted(ROOT.glob("*/lineside*/__init__.py"))] + [ROOT / "lineside"]
ENTRY_POINTS = ("lineside.backends", "lineside.cameras", "lineside.line_io")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
each_written_page = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.path)


def test_reference_is_rendered_from_the_code() -> None:
    assert main(["--check"]) == 0, "run python -m tests.docs"


@each_page
def test_links_lead_to_files_and_headings(page: Page) -> None:
    known = {one.path: one for one in PAGES}
    for link in page.links():
        target, _, anchor = link.partition("#")
        path = (ROOT / page.path).parent / target if target else ROOT / page.path
        assert path.is_file(), f"{link} is no file"
        name = path.resolve().relative_to(ROOT).as_posix()
        assert not anchor or anchor in known[name].anchors(), f"{link}: no such heading"


@each_written_page
def test_files_and_modules_are_there(page: Page) -> None:
    for span in page.spans():
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/[\w.-]+\.(py|md|sh|yaml|proto)", span) and "NAME" not in span:
            places = (ROOT, (ROOT / page.path).parent, *PACKAGES, *(package.parent for package in PACKAGES))
            assert any((place / span).exists() for place in places), span
        if found := re.fullmatch(
            r"((?:lineside(?:_\w+)?|tests|benchmarks)(?:\.[a-z_]\w*)+)((?:\.[A-Z]\w*)*)(\(.*)?", span
        ):
            assert found[1] in ENTRY_POINTS or _is_importable(found[1]), span


def test_code_names_pages_that_are_there() -> None:
    pattern = r"(^|[^/[:alnum:]])docs/[a-z][a-z/-]*\.md"
    command = ["git", "grep", "-hoE", pattern, "--", "*.py", "*.toml", "Makefile", ".ci"]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    named = set(re.findall(r"docs/\S+", found)) - {"docs/detector.md", "docs/split.md"}  # made by a test
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_map_of_the_architecture_names_every_package() -> None:
    section = (ROOT / "docs/architecture.md").read_text().split("## Packages")[1].split("\n## ")[0]
    named = {
        name for row in section.splitlines() if row.count("|") > 3 for name in re.findall(r"`(\w+)`", row.split("|")[2])
    }
    packages = {module.parent.name for package in PACKAGES[:-1] for module in package.glob("*/*.py")}
    assert named == packages


def _is_importable(name: str) -> bool:
    """Whether a dotted name is a module or something in one."""
    for dots in range(3):
        module = name.rsplit(".", dots)[0] if dots else name
        try:
            if importlib.util.find_spec(module):
                loaded: object = importlib.import_module(module)
                for part in name.split(".")[module.count(".") + 1 :]:
                    loaded = getattr(loaded, part)
                return True
        except (ModuleNotFoundError, AttributeError):
            continue
    return False


def _commands(page: Page) -> Iterator[str]:
    """Returns the shell commands of a page, one a line."""
    for kind, body in page.fences():
        if kind.strip() in ("", "sh", "console"):
            for line in body.replace("\\\n", " ").splitlines():
                yield from re.split(r"&&|;|\s\|\s|\$\(", re.sub(r"^\s*(\$ |sudo )*", "", line.partition("  #")[0]))
    for span in page.spans():
        if re.match(r"(lineside|make|python -m) \S", span):
            yield span


@each_written_page
def test_commands_and_their_options_are_there(page: Page) -> None:
    known = parsers()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for command in _commands(page):
        words = command.replace("sudo ", "").split()
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]
        if words[:1] == ["lineside"] and len(words) > 1 and not words[1].startswith(("-", "…", "C")):
            _check(known, words)
        if words[:1] == ["make"] and len(words) > 1:
            assert words[1] in targets, command
        if words[:2] == ["python", "-m"] and words[2].startswith(("tests", "benchmarks", "lineside")):
            assert importlib.util.find_spec(words[2]), command


def _check(known: dict[str, argparse.ArgumentParser], words: list[str]) -> None:
    """Fails if a command, one of its actions or an option is not there. ``ls|show`` are several actions."""
    line = " ".join(words)
    if "|" in line and re.match(r"lineside [\w -]*\w\|\w", line):
        first, choices, *rest = re.split(r"(\S+\|\S+)", line, maxsplit=1)
        for choice in choices.split("|"):
            _check(known, f"{first}{choice}{rest[0]}".split())
        return
    name = max((one for one in known if f"{line} ".startswith(f"{one} ")), key=len, default="")
    assert name, line
    parser = known[name]
    actions = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    left = line[len(name) :].split()
    assert not actions or not left or not re.fullmatch(r"[a-z][a-z-]*", left[0]), f"{line}: no action {left[0]}"
    options = {option for each in parser._actions for option in each.option_strings}
    for action in actions:
        options |= {
            option for each in action.choices.values() for one in each._actions for option in one.option_strings
        }
    for word in left:
        if found := re.match(r"\[?\(?(--[a-z][a-z0-9-]*)", word):
            assert found[1] in options, f"{line}: no option {found[1]}"


@each_page
def test_configurations_are_read(page: Page) -> None:
    for kind, body in page.fences():
        if 'title="agent.toml"' in kind:
            keys = {"device": '"a"', "folder": '"s"', "bundle": '"b"', "root": '"r"'}
            top = re.split(r"^\[", body, maxsplit=1, flags=re.M)[0]
            missing = [f"{key} = {value}\n" for key, value in keys.items() if not re.search(f"^{key} ", top, re.M)]
            camera = "" if re.search(r"^\[\[?camera\]", body, re.M) else '\n[camera]\ntype = "simulator"\n'
            parse_config(f"{''.join(missing)}{body}{camera}".encode(), Path("/"))
        if 'title="hub.toml"' in kind:
            msgspec.toml.decode(f'folder = "."\n{body}', type=HubConfig)


@each_page
def test_python_examples_compile_and_shell_examples_can_be_split(page: Page) -> None:
    for kind, body in page.fences():
        if kind.startswith("python"):
            compile(body, page.path, "exec")
        if kind.strip() == "sh":
            shlex.split(body, comments=True)


def test_guides_name_the_shipped_detector() -> None:
    shipped = open_bundle(zoo.path("surface-12"), verify=False).manifest.identity
    for name in ("docs/guides/get-started.md", "docs/guides/deploy.md"):
        assert shipped in (ROOT / name).read_text(), f"{name} names another version than {shipped}"
