"""JSON Schemas with a description of every key, taken from the ``Attributes`` of the docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import inspect as types

_ATTRIBUTE = re.compile(r"^    (\w+): (.*?)(?=^    \S|^\S|\Z)", re.M | re.S)


def schema_of(kind: Any) -> dict[str, Any]:
    """Returns the JSON Schema of a configuration class, with descriptions."""
    return described(msgspec.json.schema(kind), (kind,))


def described(schema: dict[str, Any], kinds: Sequence[Any]) -> dict[str, Any]:
    """Adds the descriptions of keys to a JSON Schema.

    Args:
        schema: With the classes under ``$defs``; changed in place.
        kinds: The classes, with the types of their keys.
    """
    structs = {found.cls.__name__: found for kind in kinds for found in _structs(types.type_info(kind), set())}
    for name, definition in schema["$defs"].items():
        found = structs[name]
        definition["description"] = _plain(_doc(found.cls).partition("\nAttributes:")[0])
        attributes = _attributes(found.cls)
        for key, content in definition["properties"].items():
            is_tag = key == found.tag_field
            text = f"`{found.tag}`: {definition['description']}" if is_tag else attributes.get(key)
            if text is not None:
                content["description"] = text
    return schema


def _structs(kind: Any, seen: set[type]) -> Iterator[types.StructType]:
    """Yields all structs in a type, each once."""
    if isinstance(kind, types.StructType):
        if kind.cls in seen:
            return
        seen.add(kind.cls)
        yield kind
    if isinstance(kind, tuple):
        for one in kind:
            yield from _structs(one, seen)
    elif isinstance(kind, types.Type | types.Field):
        for name in kind.__struct_fields__:
            yield from _structs(getattr(kind, name), seen)


def _attributes(cls: type) -> dict[str, str]:
    """Returns the descriptions of the attributes of a class and its bases."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        section = _doc(one).partition("\nAttributes:\n")[2]
        found |= {name: _plain(text) for name, text in _ATTRIBUTE.findall(section)}
    return found


def _doc(cls: type) -> str:
    return inspect.cleandoc(cls.__dict__.get("__doc__") or "")


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "`").split())
