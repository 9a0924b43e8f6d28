"""The reference of ``agent.toml``, ``hub.toml`` and the messages, from the JSON Schemas of their structs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

from lineside.config_schema import described, schema_of
from lineside_agent.config import AgentConfig
from lineside_hub.config import HubConfig
from lineside_link import messages, topics
from tests.docs.tables import table

Schema = dict[str, Any]


def render_agent() -> str:
    """Returns the tables of ``agent.toml``."""
    return _Tables(schema_of(AgentConfig)).render()


def render_hub() -> str:
    """Returns the tables of ``hub.toml``."""
    return _Tables(schema_of(HubConfig)).render()


def render_topics() -> str:
    """Returns the table of topics."""
    lines = [line for line in (inspect.getdoc(topics) or "").splitlines() if line.startswith("|")]
    return "\n".join(lines).replace("``", "`").replace("`messages.", "`")


def render_messages() -> str:
    """Returns a section for each message."""
    definitions = described(messages.schema(), messages.KINDS)["$defs"]
    sections = []
    for name, definition in definitions.items():
        rows = [
            (f"`{key}`", _type(each), _default(key, each, definition), each.get("description", ""))
            for key, each in definition["properties"].items()
        ]
        heading = f"### {name}\n\n{definition['description']}"
        sections.append(f"{heading}\n\n{table(('key', 'type', 'default', 'meaning'), rows)}")
    return "\n\n".join(sections)


class _Tables:
    """Walks a configuration from its root and describes each TOML table once."""

    def __init__(self, schema: Schema) -> None:
        self._definitions: dict[str, Schema] = schema["$defs"]
        self._root = schema["$ref"].rpartition("/")[2]
        self._places: dict[str, str] = {}

    def render(self) -> str:
        return "\n\n".join(self._walk(self._root, "", several=False))

    def _walk(self, name: str, path: str, *, several: bool) -> Iterator[str]:
        definition = self._definitions[name]
        heading = f"[[{path}]]" if several else f"[{path}]"
        kind = next((each["enum"][0] for each in definition["properties"].values() if _is_tag(each)), "")
        title = f'`{heading}`, `type = "{kind}"`' if kind else f"`{heading}`" if path else "Top level"
        self._places[name] = title
        rows, below = [], []
        for key, each in definition["properties"].items():
            references = list(dict.fromkeys(_references(each)))
            if references and not _is_map(each):
                below.append((key, references, _is_list(each)))
            elif not _is_tag(each):
                rows.append((f"`{key}`", _type(each), _default(key, each, definition), each.get("description", "")))
        lines = [f"## {title}", "", _plain(definition["description"]), ""]
        lines.append(table(("key", "type", "default", "meaning"), rows) if rows else "No further keys.")
        yield "\n".join(lines)
        for key, references, is_list in below:
            for reference in references:
                inner = f"{path}.{key}" if path else key
                if reference in self._places:
                    yield f"## `[{inner}]`\n\nThe keys of {self._places[reference]}."
                else:
                    yield from self._walk(reference, inner, several=is_list)


def _plain(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _is_tag(schema: Schema) -> bool:
    return len(schema.get("enum", ())) == 1 and "default" not in schema


def _is_map(schema: Schema) -> bool:
    return "additionalProperties" in schema


def _is_list(schema: Schema) -> bool:
    return any(one.get("type") == "array" for one in (schema, *schema.get("anyOf", ())))


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for key, each in schema.items():
            if key not in ("default", "discriminator"):
                yield from _references(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(each) for each in schema["anyOf"] if each.get("type") != "null"))
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema['items'])}" if schema.get("items") else "list"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"table of {_type(schema['additionalProperties'])}"
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _default(key: str, schema: Schema, definition: Schema) -> str:
    if key in definition["required"]:
        return "required"
    default = schema.get("default")
    return "unset" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"
