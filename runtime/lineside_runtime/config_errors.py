"""Errors of a configuration file: the file, the path of the key, the values allowed there, and the nearest name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import inspect as types

from lineside_runtime.errors import ConfigError
from lineside_runtime.wording import nearest

_WHERE = re.compile(r"(?P<what>.*?)(?: - at (?P<key>`key` in )?`(?P<path>\$.*)`)?", re.S)
_UNKNOWN = re.compile(r"Object contains unknown field `(.+)`")
_MISSING = re.compile(r"Object missing required field `(.+)`")
_VALUE = re.compile(r"Invalid (?:enum )?value (.+)", re.S)
_PATTERN = re.compile(r"Expected `str` matching regex .+", re.S)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


@contextlib.contextmanager
def naming_file(name: str) -> Iterator[None]:
    """Puts the file's name before the message of every `ConfigError` that is raised inside and does not have it.

    Checks of two tables or keys against each other do not know the file; whoever reads it does.
    """
    try:
        yield
    except ConfigError as error:
        if error.message.startswith(name):
            raise
        message = f"{name}: {error.message}"
        raise ConfigError(message, expected=error.expected, actual=error.actual, action=error.action) from error


def config_error(
    error: msgspec.ValidationError,
    kind: Any,
    given: Any,
    *,
    root: str = "$",
    where: str = "",
    action: str | None = None,
) -> ConfigError:
    """Converts msgspec's error into one with the allowed values of the key that it names.

    Args:
        error: Of reading ``given`` as ``kind``.
        kind: The type of the whole.
        given: What was read, as plain values.
        root: Path of the whole, in place of ``$``.
        where: What the message begins with, such as the name of the file.
        action: As in `ConfigError`.
    """
    found = _WHERE.fullmatch(str(error))
    what, path = (found["what"], found["path"] or "$") if found else (str(error), "$")
    declared, value = _at(types.type_info(kind), given, path)
    here = _resolved(declared, value)
    shown, actual = path.replace("$", root, 1), None
    if unknown := _UNKNOWN.fullmatch(what):
        allowed = _keys(here, value)
        message = f"{shown}.{unknown[1]} is not a known key{_nearest(unknown[1], allowed)}"
    elif missing := _MISSING.fullmatch(what):
        allowed = _tags(here).get(missing[1], [])
        message = f"{shown}.{missing[1]} is missing{_given_instead(missing[1], here, value)}"
    elif wrong := _VALUE.fullmatch(what):
        actual, is_key = wrong[1], bool(found and found["key"])
        allowed = _values(here.key_type if is_key and isinstance(here, types.DictType) else here)
        message = f"{'a key of ' if is_key else ''}{shown}{_nearest(wrong[1].strip(chr(39)), allowed)}"
    elif _PATTERN.fullmatch(what) and (examples := _examples(declared)):
        actual, allowed = repr(value), [f"a value such as {' or '.join(examples)}"]
        message = f"{shown} is written in another form"
    else:
        allowed = _values(here) if isinstance(here, types.LiteralType) else []
        message = what if shown == "$" else f"{what} - at `{shown}`"
    prefix = f"{where}: " if where else ""
    return ConfigError(prefix + message, expected=", ".join(allowed) or None, actual=actual, action=action)


def _nearest(name: str, names: Sequence[str], said: str = "did you mean `{}`?") -> str:
    near = nearest(name.lower(), names)
    return f" ({said.format(near)})" if near else ""


def _given_instead(name: str, kind: types.Type, given: Any) -> str:
    strange = [key for key in given if key not in _keys(kind, given)] if isinstance(given, dict) else []
    return _nearest(name, strange, "there is `{}`")


def _at(kind: types.Type, given: Any, path: str) -> tuple[types.Type, Any]:
    """Returns the type as declared at a path and the value there; for a tag field, the type of its table."""
    for name, index in _STEP.findall(path):
        kind = _resolved(kind, given)
        if name and name in _tags(kind):
            return kind, given
        if isinstance(kind, types.StructType):
            kind = next((field.type for field in kind.fields if field.encode_name == name), types.AnyType())
        elif isinstance(kind, types.DictType):
            kind = kind.value_type
        elif isinstance(kind, types.CollectionType):
            kind = kind.item_type
        else:
            return types.AnyType(), None
        given = _inner(given, name or index)
    return kind, given


def _examples(kind: types.Type) -> list[str]:
    """Returns the values that the type gives as examples, which only types without secrets do."""
    schema = kind.extra_json_schema if isinstance(kind, types.Metadata) else None
    return list((schema or {}).get("examples", []))


def _inner(given: Any, step: str) -> Any:
    if isinstance(given, dict):
        return given.get(step)
    return given[int(step)] if isinstance(given, list) and step.isdecimal() and int(step) < len(given) else None


def _resolved(kind: types.Type, given: Any) -> types.Type:
    """Returns the member of a union that was given, if it can be determined."""
    if isinstance(kind, types.Metadata):
        return _resolved(kind.type, given)
    if not isinstance(kind, types.UnionType):
        return kind
    members = [_resolved(one, given) for one in kind.types]
    if isinstance(given, list):
        return next((one for one in members if isinstance(one, types.CollectionType)), kind)
    structs = [one for one in members if isinstance(one, types.StructType)]
    if isinstance(given, dict) and structs:
        tagged = [one for one in structs if one.tag_field and given.get(one.tag_field) == one.tag]
        return next(iter(tagged or structs)) if tagged or len(structs) == 1 else kind
    return kind


def _tags(kind: types.Type) -> dict[str, list[str]]:
    """Returns the tags of a tagged union by the name of the tag field."""
    structs = kind.types if isinstance(kind, types.UnionType) else (kind,)
    found: dict[str, list[str]] = {}
    for one in structs:
        if isinstance(one, types.StructType) and one.tag_field:
            found.setdefault(one.tag_field, []).append(str(one.tag))
    return found


def _keys(kind: types.Type, given: Any) -> list[str]:
    kind = _resolved(kind, given)
    return [*_tags(kind), *(field.encode_name for field in kind.fields)] if isinstance(kind, types.StructType) else []


def _values(kind: types.Type) -> list[str]:
    """Returns the allowed values, if they can be listed."""
    if isinstance(kind, types.Metadata):
        return _values(kind.type)
    if isinstance(kind, types.LiteralType):
        return [str(value) for value in kind.values]
    if tags := _tags(kind):
        return [tag for named in tags.values() for tag in named]
    if isinstance(kind, types.UnionType):
        return [value for one in kind.types for value in _values(one)]
    return ["a table"] if isinstance(kind, types.StructType) else []
