"""`Schema`: fields and tables of a kind of document, read from TOML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lineside_models.nlp.extraction.model_schema import ModelSchema
from lineside_runtime.config_errors import config_error
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError, InputNotFoundError

SHIPPED = ("contract", "certificate", "delivery-note", "label")
"""Names of the schemas that lineside ships."""

_BYTES_MAX = 1 << 20
_ACTION = "Correct the file; docs/guides/documents.md says what it holds."

Kind = Literal["identifier", "date", "number", "text"]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.]{0,63}$")]
Labels = Annotated[tuple[str, ...], msgspec.Meta(max_length=100)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class FieldSchema(_Strict, frozen=True, kw_only=True):
    """A field with one value.

    Attributes:
        name: Becomes `Entity.type`.
        kind: What the value is. An ``identifier`` loses its blanks, a ``date`` becomes ``YYYY-MM-DD``, a ``number`` has
            a decimal point and a unit.
        labels: Words that stand before or above the value, in any language; upper case, punctuation and accents do not
            matter.
        pattern: Regular expression that the whole value matches; for an identifier after its blanks are removed.
        search: Regular expressions, looked for in the whole text, whose first group is the value.
        units: Units that a number may have, the first one if the document states none.
        min: Least number that is plausible or allowed.
        max: Largest number.
        required: Whether a document without it goes to a person.
    """

    name: Name
    kind: Kind = "text"
    labels: Labels = ()
    pattern: str = ""
    search: Annotated[tuple[str, ...], msgspec.Meta(max_length=20)] = ()
    units: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    required: bool = False

    def __post_init__(self) -> None:
        if not self.labels and not self.search:
            raise ValueError(f"field {self.name!r} has neither labels nor search")
        for pattern in (self.pattern, *self.search):
            _check_pattern(self.name, pattern)
        if any(re.compile(one).groups < 1 for one in self.search):
            raise ValueError(f"field {self.name!r}: an expression of search needs a group around the value")


class QuantitySchema(_Strict, frozen=True, kw_only=True):
    """A row or column of a table of measured values.

    Attributes:
        name: `Entity.type` is the table's name, a dot and this.
        labels: How the row or column is headed, beside the name itself.
        units: Units that the value may have, the first one if the document states none.
        min: Least plausible value, not the limit that the document or order states.
        max: Largest plausible value.
    """

    name: Name
    labels: Labels = ()
    units: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None


class AllowedRange(_Strict, frozen=True, kw_only=True):
    """Least and largest allowed value."""

    min: float | None = None
    max: float | None = None


class TableSchema(_Strict, frozen=True, kw_only=True):
    """A table of measured values with limits.

    Attributes:
        name: Such as ``chemistry``.
        quantities: Its rows or columns, in whichever direction the document has them.
        limits: Limits of the order by the quantity's name: a value outside goes to a person, like one outside the
            limits that the document itself states.
    """

    name: Name
    quantities: tuple[QuantitySchema, ...]
    limits: dict[str, AllowedRange] = {}

    def __post_init__(self) -> None:
        unknown = set(self.limits) - {one.name for one in self.quantities}
        if unknown:
            raise ValueError(f"table {self.name!r}: limits of {', '.join(sorted(unknown))}, which it has not")


class Schema(_Strict, frozen=True, kw_only=True):
    """What a kind of document holds.

    Attributes:
        name: Such as ``certificate``.
        fields: With one value each.
        tables: Of measured values.
        accept_from: Least score of an entity that no person has to look at.
        model: What a trained model looks for; ``None`` where only rules are used.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    title: str = ""
    fields: tuple[FieldSchema, ...] = ()
    tables: tuple[TableSchema, ...] = ()
    accept_from: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9
    model: ModelSchema | None = None

    def __post_init__(self) -> None:
        names = [one.name for one in self.fields] + [one.name for one in self.tables]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} stands there twice")
        if not names and self.model is None:
            raise ValueError("it has neither fields nor tables nor a model")

    def field(self, name: str) -> FieldSchema | None:
        """Returns the field of a name."""
        return next((one for one in self.fields if one.name == name), None)


def load_schema(source: str | Path) -> Schema:
    """Reads a schema.

    Args:
        source: Name of a shipped one, or a TOML file.

    Raises:
        InputNotFoundError: There is neither.
        ConfigError: The file breaks the format.
    """
    shipped = str(source) in SHIPPED
    path = Path(__file__).parent / f"{source}.toml" if shipped else Path(source)
    if not path.is_file():
        raise InputNotFoundError(
            f"no schema {str(source)!r}",
            expected=f"one of {', '.join(SHIPPED)}, or a TOML file",
            action="docs/guides/documents.md says what such a file holds.",
        )
    with path.open("rb") as file:
        data = file.read(_BYTES_MAX + 1)
    if len(data) > _BYTES_MAX:
        raise ConfigError(f"schema {path} is too large", expected=f"at most {_BYTES_MAX} bytes", action=_ACTION)
    try:
        return decode_toml(data, type=Schema)
    except msgspec.ValidationError as error:
        raise config_error(error, Schema, decode_toml(data), where=f"schema {path}", action=_ACTION) from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"schema {path} is not TOML: {error}", action=_ACTION) from error


def load_model_schema(source: str | Path) -> ModelSchema:
    """Returns the schema of a model.

    Raises:
        InputNotFoundError: As for `load_schema`.
        ConfigError: The file breaks the format, or has no table ``[model]``.
    """
    found = load_schema(source).model
    if found is None:
        raise ConfigError(
            f"schema {source}",
            expected="a table [model] with the entity types",
            actual="none",
            action="docs/guides/documents.md says what such a table holds.",
        )
    return found


def _check_pattern(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"field {name!r}: {pattern!r} is no regular expression: {error}") from error
