"""The reference of the command line, and the parsers that the checks of the pages use."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator

from lineside.cli import COMMANDS, parser_of
from tests.docs.tables import table


@functools.cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of each command and action by its words, such as ``lineside fleet ls``."""
    found: dict[str, argparse.ArgumentParser] = {}
    for name in COMMANDS:
        found.update(_walk(f"lineside {name}", _actions(parser_of([name]))[name]))
    return found


def _walk(words: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield words, parser
    for name, action in _actions(parser).items():
        yield from _walk(f"{words} {name}", action)


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def render() -> str:
    """Returns a section for each command and action."""
    return "\n\n".join(_section(words, parser) for words, parser in parsers().items())


def _section(words: str, parser: argparse.ArgumentParser) -> str:
    level = "##" if words.count(" ") == 1 else "###"
    lines = [f"{level} {words}", ""]
    if parser.description:
        lines += [" ".join(parser.description.split()), ""]
    own = [each for each in parser._actions if not isinstance(each, argparse._SubParsersAction | argparse._HelpAction)]
    if not own:
        return "\n".join(lines).strip()
    required = [_shown(each) for each in own if each.required and each.option_strings]
    positional = [_shown(each) for each in own if not each.option_strings]
    rest = ["[options]"] if any(each.option_strings and not each.required for each in own) else []
    lines += ["```", " ".join([words, *positional, *required, *rest]), "```", ""]
    lines.append(table(("argument", "meaning"), ((f"`{_names(each)}`", _help(parser, each)) for each in own)))
    return "\n".join(lines)


def _value(action: argparse.Action) -> str:
    """Returns the placeholder of an argument's value; empty for a switch."""
    if action.option_strings and action.nargs == 0:
        return ""
    choices = f"{{{','.join(str(each) for each in action.choices)}}}" if action.choices else ""
    default = action.dest.upper() if action.option_strings else action.dest
    shown = action.metavar if isinstance(action.metavar, str) else choices or default
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.nargs == "?":
        return f"[{shown}]"
    return {"+": f"{shown} …", "*": f"[{shown} …]"}.get(str(action.nargs), shown)


def _shown(action: argparse.Action) -> str:
    return " ".join(part for part in (*action.option_strings[-1:], _value(action)) if part)


def _names(action: argparse.Action) -> str:
    return " ".join(part for part in (", ".join(action.option_strings), _value(action)) if part)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    values = {**vars(action), "prog": parser.prog}
    if action.choices is not None:
        values["choices"] = ", ".join(str(each) for each in action.choices)
    text = " ".join(((action.help or "") % values).split())
    return f"**required**; {text}" if action.required and action.option_strings else text
