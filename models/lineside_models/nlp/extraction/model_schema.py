"""What a document model looks for: entity types, relations, trigger phrases."""

from __future__ import annotations

from typing import Annotated

import msgspec

from lineside_models.nlp.extraction.form_rules import FormRules

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


class RelationType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which types of entities belong together.

    Attributes:
        head: Type of the first.
        pairs: Whether a head has tails of its own, as a party has its alias; otherwise a document has one head, and
            every tail of it belongs to it.
    """

    head: Name
    tail: Name
    pairs: bool = False


class ModelSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[model]`` of a schema's TOML file.

    ::

        [model]
        single = ["title", "agreement_date"]
        many = ["party", "alias"]
        triggers = ["governing law"]
        [model.patterns]
        agreement_date = ["(?i)dated (.{3,40}?[0-9]{4})"]
        [model.line_runs]
        address = 6
        [model.cues]
        phone = '(?i)\\b(?:tel|fax)\\b'
        [model.lexicon]
        address = ["Street", "Road"]
        [model.relations.alias_of]
        head = "party"
        tail = "alias"
        pairs = true

    Attributes:
        single: Entity types of which a document has one value.
        many: Entity types of which it may have several.
        relations: By name.
        triggers: Phrases behind the beginning that a value stands near.
        first_windows: Windows of the beginning, of 256 tokens.
        trigger_windows: Windows around trigger phrases.
        patterns: Regular expressions by type. The first group of each place where one matches is a candidate, beside
            those of the network, and what the score rests on.
        line_runs: See `lineside_models.nlp.extraction.form_rules.FormRules`.
        cues: See there.
        lexicon: See there.
        line_breaks: Whether the network sees where lines and cells of a table end: for forms and receipts, not for
            running text.
    """

    single: tuple[Name, ...] = ()
    many: tuple[Name, ...] = ()
    relations: dict[Name, RelationType] = {}
    triggers: tuple[str, ...] = ()
    first_windows: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 3
    trigger_windows: Annotated[int, msgspec.Meta(ge=0, le=64)] = 3
    patterns: dict[Name, tuple[str, ...]] = {}
    line_runs: dict[Name, int] = {}
    cues: dict[Name, str] = {}
    lexicon: dict[Name, tuple[str, ...]] = {}
    line_breaks: bool = False

    def __post_init__(self) -> None:
        types = self.types
        if not types or len(set(types)) != len(types):
            raise ValueError("single and many must name at least one type, each once")
        for name, relation in self.relations.items():
            if not {relation.head, relation.tail} <= set(types):
                raise ValueError(f"relation {name}: head and tail must be types of single or many")
        self.form.check(types)

    @property
    def types(self) -> tuple[str, ...]:
        """Entity types, in the order of a model's outputs."""
        return (*self.single, *self.many)

    @property
    def form(self) -> FormRules:
        """What the schema says of forms."""
        return FormRules(self.patterns, self.line_runs, self.cues, self.lexicon)
