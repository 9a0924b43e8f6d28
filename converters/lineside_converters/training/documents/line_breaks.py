"""A tokenizer that gives ends of lines and of cells a token each."""

from __future__ import annotations

from typing import Any

import msgspec

from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import TrainingError

MARKS = ("\n", "\t")
"""A line break, and the tab between cells of a line, as `Document.text` has them."""

UNUSED = "[unused{}]"
"""Tokens that BERT's vocabulary keeps free, with weights of their own (https://github.com/google-research/bert)."""


def with_line_breaks(tokenizer: bytes) -> bytes:
    """Returns a ``tokenizer.json`` in which unused tokens represent `MARKS`, which BERT's drops.

    Raises:
        TrainingError: It is no such file, or has no unused tokens.
    """
    try:
        found = decode_json(tokenizer, type=dict[str, Any])
        vocabulary, added = found["model"]["vocab"], found["added_tokens"]
        numbers = {mark: vocabulary.pop(UNUSED.format(at)) for at, mark in enumerate(MARKS)}
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            "line breaks as tokens",
            expected=f"a tokenizer.json with {UNUSED.format(0)} and {UNUSED.format(1)}",
            actual=f"none: {error}",
            action="Give an encoder with BERT's vocabulary, or leave out line_breaks in the schema.",
        ) from error
    vocabulary.update(numbers)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added += [{"id": number, "content": mark, **flags} for mark, number in numbers.items()]
    added.sort(key=lambda one: int(one["id"]))
    return msgspec.json.encode(found)
